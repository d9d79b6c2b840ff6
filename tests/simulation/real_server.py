"""Process of a real Redis or Valkey that runs on the virtual clock, and synchronous connections to it."""

import os
from collections.abc import Sequence
from pathlib import Path
from socket import AF_UNIX, socket
from tempfile import TemporaryDirectory
from typing import Any

import hiredis

from tests.cluster.errors import ProgramFailed
from tests.cluster.processes import Program
from tests.cluster.redis_servers import Flavour
from tests.simulation.loop import START_MICROSECONDS
from tests.simulation.server_clock import ServerClock

Command = tuple[Any, ...]
"""A command of the simulation itself."""

START_TIMEOUT_SECONDS = 20.0

_RESET_COMMANDS = (
    ("REPLICAOF", "NO", "ONE"),
    ("CONFIG", "SET", "maxmemory", "0"),
    ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ("ACL", "SETUSER", "default", "+eval"),
    ("FLUSHALL",),
    ("SCRIPT", "FLUSH"),
)


class RealServer:
    """Process of a real server on the virtual clock. It is used for many simulations, one after another."""

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self._folder = TemporaryDirectory(prefix="simulated-server-")
        folder = Path(self._folder.name)
        self.clock = ServerClock(folder, START_MICROSECONDS)
        self._socket_path = folder / "socket"
        options = ["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no", "--hz", "1"]
        # The thread of the memory allocator would wait until a virtual time. Virtual times are in the past.
        options += ["--jemalloc-bg-thread", "no"]
        # A hash table of the server has a random order. A list has the order of insertion.
        options += ["--hash-max-ziplist-value", "4096", "--hash-max-ziplist-entries", "4096"]
        self._program = Program(flavour.name, [flavour.find(), *options], folder, self.clock.environment())
        self._program.start()
        try:
            self._program.wait_until(self._accepts_connections, START_TIMEOUT_SECONDS)
        except ProgramFailed:
            self._program.kill()
            raise
        self.control = self.connect()
        info: bytes = self.control.execute("INFO", "server")
        self.run_id = info.partition(b"run_id:")[2].split()[0]

    def connect(self) -> "RealConnection":
        """Open a connection."""
        return RealConnection(self._socket_path)

    def reset(self) -> None:
        """Delete all data and all settings of the previous simulation."""
        self.clock.set(START_MICROSECONDS)
        for command in _RESET_COMMANDS:
            self.control.execute(*command)

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used."""
        fields = Path(f"/proc/{self._program.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process."""
        self.control.close()
        self._program.kill()
        self._folder.cleanup()

    close = stop

    def _accepts_connections(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True


class RealConnection:
    """Synchronous connection to the real server."""

    def __init__(self, path: Path) -> None:
        self._socket = socket(AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._socket.settimeout(30)

    def send(self, arguments: Sequence[Any], *observed: Command) -> tuple[bytes, Any, list[Any]]:
        """Execute a command and the observed commands in one round trip.

        Returns the reply to the command as bytes, and parsed, and the parsed replies to the observed commands.
        """
        raw, replies = self._round_trip([arguments, _END_OF_REPLY, *observed] if observed else [arguments])
        return raw.partition(_END_OF_REPLY_RAW)[0], replies[0], replies[2:]

    def send_all(self, commands: Sequence[Command]) -> list[Any]:
        """Execute commands in one round trip. Returns their parsed replies, which can be errors."""
        return self._round_trip(commands)[1]

    def _round_trip(self, commands: Sequence[Sequence[Any]]) -> tuple[bytes, list[Any]]:
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(each)) for each in commands))
        parser, raw = hiredis.Reader(notEnoughData=_INCOMPLETE), bytearray()
        replies: list[Any] = []
        while len(replies) < len(commands):
            data = self._socket.recv(262_144)
            if not data:
                raise ConnectionError("the real server closed the connection")
            raw += data
            parser.feed(data)
            while (reply := parser.gets()) is not _INCOMPLETE:
                replies.append(reply)
        return bytes(raw), replies

    def execute(self, *arguments: Any) -> Any:
        """Execute one command and return its reply. Raises hiredis.ReplyError for an error reply."""
        _, reply, _ = self.send(arguments)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def close(self) -> None:
        self._socket.close()


_INCOMPLETE = object()

_END_OF_REPLY = ("ECHO", "the end of the reply")
_END_OF_REPLY_RAW = b"$20\r\nthe end of the reply\r\n"
"""Command that separates the reply to a command from the replies to the observed commands, and its reply."""
