"""Event loop of the operator and the processor: uvloop with a fix that closes a socket only once.

uvloop takes over the file descriptor of a socket that the caller passes. uvloop does not detach the Python socket
object if the connection fails immediately, for instance when the peer resets it during the TLS handshake. An API server
that is killed does that. The garbage collector later closes the same descriptor number again, when it may already
belong to another connection. uvloop 0.23 fixes one of the ways to get there (uvloop#738). aiohttp connects with its own
socket, so that an operator could permanently lose its watches.
"""

from socket import socket
from typing import Any

import uvloop


class SafeUvloop(uvloop.Loop):
    """uvloop's event loop with a safe `create_connection`."""

    async def create_connection(self, *arguments: Any, sock: socket | None = None, **options: Any) -> Any:
        """Connect as asyncio does. The loop owns `sock` from here on; the caller can no longer use it."""
        try:
            return await super().create_connection(*arguments, sock=sock, **options)
        finally:
            if sock is not None:
                sock.detach()


def new_event_loop() -> SafeUvloop:
    """Return an event loop, for the `loop_factory` of `asyncio.Runner`."""
    return SafeUvloop()
