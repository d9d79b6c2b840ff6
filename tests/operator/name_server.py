"""A name server on loopback, with records that a test sets, and silence for chosen names."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address

A, AAAA = 1, 28
NO_ERROR, NAME_ERROR = 0, 3
HEADER = struct.Struct("!6H")
QUESTION_END = struct.Struct("!2H")
RECORD = struct.Struct("!2HIH")


class NameServer:
    """Answers with `records`, which are names without a final dot. For names in `silent`, or all names below them, no
    answer is sent."""

    def __init__(self, port: int = 0) -> None:
        self.records: dict[str, Callable[[], Sequence[str]]] = {}
        self.silent: set[str] = set()
        self.queries: list[str] = []
        self.ttl_seconds = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def add(self, name: str, *addresses: str) -> None:
        self.records[name] = lambda: addresses

    def serve(self) -> None:
        """Answer queries until the socket is closed."""
        with suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(4096)
                if not query:  # the socket was shut down
                    return
                if answer := self._answer(query):
                    self._socket.sendto(answer, client)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer(self, query: bytes) -> bytes | None:
        end, labels = HEADER.size, list[str]()
        while length := query[end]:
            labels.append(query[end + 1 : end + 1 + length].decode())
            end += 1 + length
        end += 1
        kind, _ = QUESTION_END.unpack_from(query, end)
        question, name = query[HEADER.size : end + QUESTION_END.size], ".".join(labels).lower()
        self.queries.append(name)
        if any(name == silent or name.endswith(f".{silent}") for silent in self.silent):
            return None
        known = name in self.records
        addresses = [ip_address(each) for each in self.records[name]()] if known else []
        data = [each.packed for each in addresses if each.version == (4 if kind == A else 6)]
        records = [b"\xc0\x0c" + RECORD.pack(kind, 1, self.ttl_seconds, len(each)) + each for each in data]
        flags = 0x8180 | (NO_ERROR if known else NAME_ERROR)
        return HEADER.pack(int.from_bytes(query[:2]), flags, 1, len(records), 0, 0) + question + b"".join(records)


@contextmanager
def running_name_server() -> Iterator[NameServer]:
    server = NameServer()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(timeout=20)
