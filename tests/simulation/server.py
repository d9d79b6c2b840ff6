"""Simulated server: a real Redis or Valkey that runs on the virtual clock, and one command at a time.

The simulation serves blocking reads itself: it sends them without BLOCK, and again as soon as the stream contains a new
entry. It also assigns the client ids and the run id, because those of the real server depend on earlier events.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from streamconsumer.redis_client.replies import parse_id
from tests.simulation.loop import SimulationLoop
from tests.simulation.real_server import Command, RealConnection, RealServer

Arguments = list[bytes]
"""A command: its name and its arguments."""

FOREVER_MICROSECONDS = 10**12
"""Virtual duration of a read with BLOCK 0."""

ADMINISTRATOR = 0
"""Client id of administrators, producers and foreign programs."""

_REAL_CLIENT_ID = re.compile(rb"(id\r\n:)\d+")
"""The client id in a reply to HELLO."""

WRITE_COMMANDS = {
    *(b"XADD", b"XACK", b"XCLAIM", b"XAUTOCLAIM", b"XGROUP", b"XREADGROUP", b"XTRIM", b"XDEL", b"XSETID", b"EVAL"),
    *(b"EVALSHA", b"FCALL", b"HSET", b"HDEL", b"ZADD", b"ZREM", b"SET", b"DEL", b"UNLINK", b"RENAME", b"HINCRBY"),
    *(b"EXEC", b"FLUSHALL", b"FLUSHDB", b"RESTORE"),
}
"""Commands that can change data, as far as the engine and the faults use them. CLIENT PAUSE WRITE holds them."""

_ACCEPT_WRITES = {"maxmemory": "0", "min-replicas-to-write": "0", "replica-read-only": "no"}
"""Options with which the server rejects no write."""


class ParkedRead:
    """A blocking read that waits for entries."""

    def __init__(self, arguments: Arguments, reply: Callable[[bytes], None], timer: asyncio.TimerHandle) -> None:
        self.arguments, self.reply, self.timer = arguments, reply, timer
        self.stream = arguments[_index(arguments, b"STREAMS") + 1]
        self.group = arguments[2]


class SimulatedServer:
    """Server of one simulation: executes commands in the order in which the network delivers them."""

    def __init__(self, real: RealServer, loop: SimulationLoop) -> None:
        self.real, self._loop = real, loop
        self.clock_offset = 0
        """Microseconds by which the server's clock differs from the virtual time."""
        self.parked: dict[int, ParkedRead] = {}
        """Parked reads by client id, in the order in which they arrived."""
        self.on_executed: Callable[[int, Arguments, Any], object] = lambda *_: None
        """Called after each command with the client id, the command and its parsed reply."""
        self.write_pauses = 0
        """Number of faults that hold writes."""
        self.refusals: list[Callable[[bytes], bytes | None]] = []
        """Functions of faults that return the error with which the server rejects a command, by its name, or None."""
        self.observed: tuple[Command, ...] = ()
        """Commands that change nothing, and that `inspect_many` often executes after a command that can change data."""
        self._observations: dict[Command, Any] = {}
        """Replies to commands that change nothing, since the last command that can change data."""
        self.incarnation = 0
        """Number of restarts and failovers. It is the run id, because that of the real server is random."""
        self._client_names: dict[int, bytes] = {}
        self._held: list[Callable[[], None]] = []
        self._sessions: dict[int, RealConnection] = {}

    # -- connections ---------------------------------------------------------------------------------------------------

    def open(self, client_id: int) -> None:
        """Open the real connection of a client."""
        self._sessions[client_id] = self.real.connect()

    def close(self, client_id: int) -> None:
        """Close the real connection of a client. Drops its parked read."""
        if read := self.parked.pop(client_id, None):
            read.timer.cancel()
        self._client_names.pop(client_id, None)
        if session := self._sessions.pop(client_id, None):
            session.close()

    def is_open(self, client_id: int) -> bool:
        """Return True if the client is connected."""
        return client_id in self._sessions

    def close_all(self) -> None:
        for client_id in list(self._sessions):
            self.close(client_id)

    # -- commands ------------------------------------------------------------------------------------------------------

    def receive(self, client_id: int, arguments: Arguments, reply: Callable[[bytes], None]) -> None:
        """Execute a command. Calls `reply` with the bytes of the reply, for a blocking read possibly much later."""
        if client_id not in self._sessions:
            return  # The connection was closed during a write pause.
        name = arguments[0].upper()
        if self.write_pauses and name in WRITE_COMMANDS:
            self._held.append(lambda: self.receive(client_id, arguments, reply))
            return
        if error := next(filter(None, (refuse(name) for refuse in self.refusals)), None):
            self.on_executed(client_id, arguments, error)
            reply(error)
            return
        answer = self._answer_client_command(client_id, arguments) if name in {b"CLIENT", b"INFO"} else None
        if answer is not None:
            self.on_executed(client_id, arguments, answer)
            reply(answer)
            return
        if name == b"XREADGROUP" and b"BLOCK" in (block := [each.upper() for each in arguments]):
            index = block.index(b"BLOCK")
            milliseconds = int(arguments[index + 1])
            self._read_or_park(client_id, arguments[:index] + arguments[index + 2 :], milliseconds, reply)
            return
        reply(self._execute(client_id, arguments))

    def resume_writes(self) -> None:
        """Execute the held commands in order, unless another fault still holds writes."""
        held, self._held = self._held, []
        for execute in held:
            execute()

    def end_parked_read(self, client_id: int, raw: bytes = b"*-1\r\n") -> bool:
        """End a parked read, by default with an empty reply. Returns False if the client has no parked read."""
        read = self.parked.pop(client_id, None)
        if read is not None:
            read.timer.cancel()
            read.reply(raw)
        return read is not None

    def administer(self, *arguments: Any) -> Any:
        """Execute a command of an administrator, a producer or a foreign program. Returns its reply or its error."""
        reply = self.administer_quietly(*arguments)
        self.serve_parked()
        return reply

    def administer_quietly(self, *arguments: Any) -> Any:
        """Execute a command of an administrator. Blocked reads get its entries at the next `serve_parked`."""
        self.sync_clock()
        self._observations.clear()
        _, reply, _ = self.real.control.send(arguments)
        self.on_executed(ADMINISTRATOR, [_to_bytes(each) for each in arguments], reply)
        return reply

    def inspect(self, *arguments: Any) -> Any:
        """Execute a command that the ledger does not see. Returns its reply or its error."""
        self.sync_clock()
        self._observations.clear()
        return self.real.control.send(arguments)[1]

    def execute_all(self, commands: Sequence[Command]) -> list[Any]:
        """Execute commands that the ledger does not see in one round trip. Returns their replies or their errors."""
        self.sync_clock()
        self._observations.clear()
        return self.real.control.send_all(commands)

    def inspect_many(self, *commands: Command) -> list[Any]:
        """Execute commands that change nothing in one round trip. Returns their replies, which can be errors.

        If nothing was executed since a client's write, the observed commands need no further round trip.
        """
        missing = [each for each in commands if each not in self._observations]
        if missing:
            self.sync_clock()
            self._observations.update(zip(missing, self.real.control.send_all(missing), strict=True))
        return [self._observations[each] for each in commands]

    def set_option(self, name: str, value: str) -> None:
        """Set an option of the real server."""
        self.inspect("CONFIG", "SET", name, value)

    def replace_data(self, keys: dict[bytes, bytes]) -> None:
        """Replace all data by these serialized keys, even if a fault lets the server reject writes: a server that loads
        its data after a crash or from its primary checks neither its memory nor its replicas."""
        values = {name: self.inspect("CONFIG", "GET", name)[1] for name in _ACCEPT_WRITES}
        for name, value in _ACCEPT_WRITES.items():
            self.set_option(name, value)
        for command in (("FLUSHALL",), *(("RESTORE", key, 0, value) for key, value in keys.items())):
            self.real.control.execute(*command)
        for name, value in values.items():
            self.set_option(name, value)

    def sync_clock(self) -> None:
        """Set the clock of the real server to the virtual time."""
        self.real.clock.set(self._loop.microseconds + self.clock_offset)

    def serve_parked(self) -> None:
        """Execute each parked read whose stream has a new entry, or whose group no longer exists."""
        served: set[int] = set()
        while self.parked:
            client_id = next((each for each in self.parked if each not in served and self._has_reply(each)), None)
            if client_id is None:
                return
            served.add(client_id)
            read = self.parked[client_id]
            raw, parsed = self._send(client_id, read.arguments)
            if parsed is not None:
                self.parked.pop(client_id).timer.cancel()
                self.on_executed(client_id, read.arguments, parsed)
                read.reply(raw)

    def _send(self, client_id: int, arguments: Arguments) -> tuple[bytes, Any]:
        """Execute a command of a client. If it can change data, the same round trip executes the observed commands."""
        self.sync_clock()
        observed = self.observed if arguments[0].upper() in WRITE_COMMANDS else ()
        translated = [self.real.run_id if each == self.run_id else each for each in arguments]
        raw, parsed, observations = self._sessions[client_id].send(translated, *observed)
        self._observations = dict(zip(observed, observations, strict=True))
        return raw, parsed

    def _execute(self, client_id: int, arguments: Arguments) -> bytes:
        raw, parsed = self._send(client_id, arguments)
        name = arguments[0].upper()
        if name == b"HELLO":
            raw = _REAL_CLIENT_ID.sub(b"\\g<1>%d" % client_id, raw)
        self.on_executed(client_id, arguments, parsed)
        if self.parked and name in WRITE_COMMANDS:
            self.serve_parked()
        return raw

    def _read_or_park(
        self, client_id: int, arguments: Arguments, milliseconds: int, reply: Callable[[bytes], None]
    ) -> None:
        raw, parsed = self._send(client_id, arguments)
        if parsed is None:
            wait = milliseconds * 1000 if milliseconds else FOREVER_MICROSECONDS
            timer = self._loop.after(wait, self.end_parked_read, client_id)
            self.parked[client_id] = ParkedRead(arguments, reply, timer)
            return
        self.on_executed(client_id, arguments, parsed)
        reply(raw)

    def _has_reply(self, client_id: int) -> bool:
        read = self.parked[client_id]
        groups, last = self.inspect_many(*head_commands(read.stream.decode()))
        if isinstance(groups, hiredis.ReplyError):
            return True
        for line in groups:
            group = to_dict(line)
            if group[b"name"] == read.group:
                return bool(last) and parse_id(last[0][0].decode()) > parse_id(group[b"last-delivered-id"].decode())
        return True

    @property
    def run_id(self) -> bytes:
        """Simulated run id of the server."""
        return b"%040d" % self.incarnation

    def _answer_client_command(self, client_id: int, arguments: Arguments) -> bytes | None:
        match [arguments[0].upper(), arguments[1].upper()]:
            case [b"CLIENT", b"ID"]:
                return b":%d\r\n" % client_id
            case [b"CLIENT", b"UNBLOCK"] if arguments[2].isdigit():
                return b":%d\r\n" % self.end_parked_read(int(arguments[2]))
            case [b"CLIENT", b"SETNAME"] if b" " not in arguments[2]:
                self._client_names[client_id] = arguments[2]
                return b"+OK\r\n"
            case [b"CLIENT", b"LIST"] if all(each.isdigit() for each in arguments[3:]):
                ids = [each for each in map(int, arguments[3:]) if each in self._sessions]
                return _bulk(b"".join(b"id=%d name=%s\n" % (each, self._client_names.get(each, b"")) for each in ids))
            case [b"INFO", b"SERVER"]:
                return _bulk(b"# Server\r\nrun_id:%s\r\n" % self.run_id)
            case _:
                return None


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def _index(arguments: Arguments, word: bytes) -> int:
    return [each.upper() for each in arguments].index(word)


def head_commands(stream: str) -> tuple[Command, Command]:
    """Return the commands that show the groups of a stream, and its last entry."""
    return ("XINFO", "GROUPS", stream), ("XREVRANGE", stream, "+", "-", "COUNT", 1)


def to_dict(flat: Sequence[bytes]) -> dict[bytes, Any]:
    """Return the alternating names and values of a reply as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _to_bytes(argument: Any) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()
