"""A name server on a loopback address: it answers for some names, and is silent for the names of a hostile tenant."""

import contextlib
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Self

ADDRESS = "127.53.0.1"
"""Every address in 127.0.0.0/8 is local. The port 53 of this one is free on any machine."""

PORT = 53
_A, _IN = b"\x00\x01", b"\x00\x01"
_NAME_OF_QUESTION = b"\xc0\x0c"
_NXDOMAIN, _NO_ERROR = b"\x81\x83", b"\x81\x80"


class NameServer:
    """Answers over UDP and TCP. `lookup` returns the address of a name, an empty text if the name does not exist, or
    None for silence."""

    def __init__(self, lookup: Callable[[str], str | None]) -> None:
        self._lookup = lookup
        self.questions: list[str] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for listener in (self._udp, self._tcp):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((ADDRESS, PORT))
        self._tcp.listen(64)  # accepts, and never answers
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def write_configuration(self, file: Path, *search: str) -> None:
        """Write a resolv.conf that names this server."""
        file.write_text(f"nameserver {ADDRESS}\nsearch {' '.join(search)}\noptions ndots:5\n")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(OSError):
            self._udp.shutdown(socket.SHUT_RDWR)
        self._udp.close()
        self._tcp.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                query, client = self._udp.recvfrom(4096)
            except OSError:
                return
            if not query:  # the socket is shut down
                return
            if (answer := self._answer(query)) is not None:
                with contextlib.suppress(OSError):
                    self._udp.sendto(answer, client)

    def _answer(self, query: bytes) -> bytes | None:
        name, end = _question(query)
        self.questions.append(name)
        address = self._lookup(name)
        if address is None:
            return None
        question, is_a = query[12 : end + 4], query[end : end + 2] == _A
        counts = b"\x00\x01" + (b"\x00\x01" if address and is_a else b"\x00\x00") + b"\x00\x00\x00\x00"
        header = query[:2] + (_NO_ERROR if address else _NXDOMAIN) + counts
        if not address or not is_a:
            return header + question
        record = _NAME_OF_QUESTION + _A + _IN + b"\x00\x00\x00\x00" + b"\x00\x04" + ip_address(address).packed
        return header + question + record


def _question(query: bytes) -> tuple[str, int]:
    """Return the name in a query, and the position after the name."""
    labels, position = [], 12
    while length := query[position]:
        labels.append(query[position + 1 : position + 1 + length].decode(errors="replace").lower())
        position += 1 + length
    return ".".join(labels), position + 1
