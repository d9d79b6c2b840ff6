"""Detectors of what hostile input must not cause: an opened file, and a connection to a Unix socket."""

import ctypes
import os
import socket
import struct
from pathlib import Path
from typing import Self

IN_OPEN = 0x20
_EVENT_HEADER = struct.Struct("iIII")


class OpenDetector:
    """Counts how often any process opens the file, with inotify."""

    def __init__(self, file: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, bytes(file), IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"inotify: {file}")

    def count(self) -> int:
        """Return the number of times that the file was opened since the last call."""
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return 0
        count = position = 0
        while position < len(data):
            *_, name_length = _EVENT_HEADER.unpack_from(data, position)
            position, count = position + _EVENT_HEADER.size + name_length, count + 1
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self._descriptor)


class CanarySocket:
    """A listening Unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        self._socket.setblocking(False)

    def count(self) -> int:
        """Return the number of connections since the last call."""
        count = 0
        while True:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return count
            connection.close()
            count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._socket.close()
