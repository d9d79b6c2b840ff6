"""Event loop of the operator and the processor: uvloop with a fix, so that each socket is closed only once.

If the caller passes a socket, uvloop takes over the file descriptor of the socket. If the connection fails immediately,
uvloop closes the descriptor but does not detach the Python socket object. This happens, for example, if the API server
is killed during the TLS handshake. The garbage collector later closes the same descriptor number again, although the
number may belong to another connection by then. uvloop 0.23 fixes only one of several causes (uvloop#738). The
operator's HTTP client, aiohttp, passes sockets to the event loop. Without the fix in this module, the operator could
therefore lose its watches permanently.
"""

from socket import socket
from typing import Any

import uvloop


class SafeUvloop(uvloop.Loop):
    """uvloop's event loop with a safe `create_connection`."""

    async def create_connection(self, *arguments: Any, sock: socket | None = None, **options: Any) -> Any:
        """Open a connection, with the parameters of asyncio's method. The event loop takes over `sock`, so the caller
        must not use the socket afterwards."""
        try:
            return await super().create_connection(*arguments, sock=sock, **options)
        finally:
            if sock is not None:
                sock.detach()


def new_event_loop() -> SafeUvloop:
    """Return an event loop, for the `loop_factory` of `asyncio.Runner`."""
    return SafeUvloop()
