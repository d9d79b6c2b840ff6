"""A TCP server that is not Redis: it counts connections, and sends a fixed text, or nothing."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

COMMAND = re.compile(rb"^\*[0-9]+\r$", re.MULTILINE)


class ForeignServer:
    """Accepts connections. `reply` is sent for each command of a client. If `reply` is None, the connection stays
    silent."""

    def __init__(self, reply: bytes | None = None, host: str = "127.0.0.1", greeting: bytes = b"") -> None:
        self.reply, self.greeting, self.host = reply, greeting, host
        self.connections = 0
        self._listener = socket.create_server((host, 0), backlog=4096)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def start(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._open):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                if self.greeting or self.reply:
                    threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(self.greeting)
            while data := connection.recv(65536):
                connection.sendall((self.reply or b"") * COMMAND.subn(b"", data)[1])


@contextmanager
def foreign_server(
    reply: bytes | None = None, host: str = "127.0.0.1", greeting: bytes = b""
) -> Iterator[ForeignServer]:
    server = ForeignServer(reply, host, greeting).start()
    try:
        yield server
    finally:
        server.close()
