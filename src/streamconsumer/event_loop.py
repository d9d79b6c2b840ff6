"""The event loop of the operator's and the processor's process: uvloop's, where a socket is closed once.

uvloop takes over the file descriptor of a socket that it is given, and forgets to tell the socket's object when the
connection fails at once: the peer resets it during the TLS handshake, as an API server does that is killed. The object
closes the number a second time when it is collected, and by then it may be another connection's (uvloop 0.23 mends one
of the ways there, uvloop#738). aiohttp connects like that, so that an operator could lose its watches for good.
"""

from socket import socket
from typing import Any

import uvloop


class SafeUvloop(uvloop.Loop):
    """uvloop's, but for `create_connection`."""

    async def create_connection(self, *arguments: Any, sock: socket | None = None, **options: Any) -> Any:
        """asyncio's. `sock` is the loop's from here on, and of no use to the caller afterwards."""
        try:
            return await super().create_connection(*arguments, sock=sock, **options)
        finally:
            if sock is not None:
                sock.detach()


def new_event_loop() -> SafeUvloop:
    """A loop for `asyncio.Runner`."""
    return SafeUvloop()
