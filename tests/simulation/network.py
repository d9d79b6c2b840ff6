"""Simulated network between the processes and the server: delay, partition, cut, and replies in several pieces.

Each connection keeps the order of its bytes, as TCP does. A partition holds bytes back until it ends.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import hiredis

from tests.simulation.loop import CURRENT_THREAD, Process, SimulationLoop, Thread, context_of
from tests.simulation.server import ADMINISTRATOR, SimulatedServer

MIN_DELAY_MICROSECONDS, MAX_DELAY_MICROSECONDS = 40, 400
"""Range of the delay of each direction without a fault."""

PIECE_BYTES = 65_536
"""While a link is slow, each such piece of a reply takes the additional delay."""

SPLIT_SHARE = 0.1
"""Share of the replies that arrive in two pieces."""


@dataclass
class Link:
    """Path between one process and the server, with its faults at present."""

    up_cuts: int = 0
    """Number of partitions that hold bytes to the server."""
    down_cuts: int = 0
    """Number of partitions that hold bytes to the process."""
    up_delay: int = 0
    """Additional delay in microseconds to the server."""
    down_delay: int = 0
    """Additional delay in microseconds to the process."""
    reply_limit: int | None = None
    """The server cuts the connection before a reply of more bytes than this. None if there is no such limit."""
    held: list[Callable[[], object]] = field(default_factory=list)
    """Deliveries that wait for the end of a partition, in order."""


class Network:
    """Opens connections and delivers bytes."""

    def __init__(self, loop: SimulationLoop, server: SimulatedServer, random: Random) -> None:
        self.loop, self.server, self.random = loop, server, random
        self.links: dict[Process, Link] = {}
        self.connections: dict[int, Connection] = {}
        """Open connections by client id."""
        self.refusals = 0
        """Number of faults during which the server refuses connections, as if it were down."""
        self.full = 0
        """Number of faults during which the server has reached `maxclients`."""
        self.on_reply: Callable[[Connection, bytes], object] = lambda *_: None
        """Called with the connection and the reply when the server sends a reply."""
        self.on_received: Callable[[Process], object] = lambda _process: None
        """Called with the process when bytes of the server have reached it."""
        self.opened: Counter[Process] = Counter()
        """Number of connections that each process has opened since the last `clear`."""
        self._last_client_id = ADMINISTRATOR
        self._labels: dict[int, str] = {}
        loop.connect = self.connect

    def link(self, process: Process) -> Link:
        """Return the link of a process."""
        return self.links.setdefault(process, Link())

    def label(self, client_id: int) -> str:
        """Return the name of the thread that opened a connection. Empty for administrators and producers."""
        return self._labels.get(client_id, "")

    async def connect(self, protocol_factory: Callable[[], Any], _host: str, _port: int) -> tuple[Any, Any]:
        """Open a connection. Raises ConnectionRefusedError if the server does not accept connections."""
        thread = CURRENT_THREAD.get()
        connected: asyncio.Future[bool] = self.loop.create_future()
        self.send_up(thread.process, lambda: self._accept(thread, connected))
        if not await connected:
            raise ConnectionRefusedError(111, "Connection refused")
        self._last_client_id += 1
        connection = Connection(self, self._last_client_id, thread)
        self.connections[connection.client_id] = connection
        self.opened[thread.process] += 1
        self._labels[connection.client_id] = thread.label
        if self.full:
            connection.deliver(b"-ERR max number of clients reached\r\n")
            connection.cut()
        else:
            self.server.open(connection.client_id)
        protocol = protocol_factory()
        connection.protocol = protocol
        protocol.connection_made(connection)
        return connection, protocol

    def _accept(self, thread: Thread, connected: "asyncio.Future[bool]") -> None:
        is_accepted = not self.refusals

        def arrive() -> None:
            if not connected.done():
                connected.set_result(is_accepted)

        self.send_down(thread.process, arrive)

    def send_up(self, process: Process, deliver: Callable[[], object], not_before: int = 0) -> int:
        """Deliver to the server. Returns the time of arrival in microseconds."""
        link = self.link(process)
        return self._send(link, deliver, link.up_delay, not_before, lambda: bool(link.up_cuts))

    def send_down(self, process: Process, deliver: Callable[[], object], not_before: int = 0) -> int:
        """Deliver to a process. Returns the time of arrival in microseconds."""
        link = self.link(process)
        return self._send(link, deliver, link.down_delay, not_before, lambda: bool(link.down_cuts))

    def _send(
        self, link: Link, deliver: Callable[[], object], delay: int, not_before: int, is_cut: Callable[[], bool]
    ) -> int:
        def arrive() -> None:
            if is_cut():
                link.held.append(arrive)
            else:
                deliver()

        delay += self.random.randint(MIN_DELAY_MICROSECONDS, MAX_DELAY_MICROSECONDS)
        arrival = max(self.loop.microseconds + delay, not_before + 1)
        self.loop.at(arrival, arrive)
        return arrival

    def heal(self, link: Link) -> None:
        """End a partition. The held bytes arrive now, in order."""
        held, link.held = link.held, []
        for arrive in held:
            arrive()

    def cut_all(self, process: Process | None = None) -> None:
        """Cut all connections, or all connections of one process."""
        for connection in list(self.connections.values()):
            if process is None or connection.thread.process is process:
                connection.cut()


class Connection(asyncio.Transport):
    """Connection of one process. It is the transport that the process uses."""

    def __init__(self, network: Network, client_id: int, thread: Thread) -> None:
        super().__init__()
        self.network, self.client_id, self.thread = network, client_id, thread
        self.protocol: Any = None
        self._context: Context = context_of(thread)
        self._parser = hiredis.Reader()
        self._is_open, self._is_server_open = True, True
        self._up_arrival, self._down_arrival = 0, 0
        self._commands: deque[list[bytes]] = deque()
        """Commands that have arrived and wait for the reply to an earlier command."""
        self._is_waiting = False
        """True while a command has no reply yet."""
        self.cut_after: int | None = None
        """The connection is cut after this number of further reply bytes. None if it is not cut."""

    # -- the process's side --------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self.protocol
        return protocol

    def is_closing(self) -> bool:
        return not self._is_open

    def write(self, data: Any) -> None:
        if self.thread.failing_writes:
            self._close(MemoryError())  # asyncio's transports close the connection if `send` fails
        elif self._is_open:
            copy = bytes(data)
            process = self.thread.process
            self._up_arrival = self.network.send_up(process, lambda: self._receive(copy), self._up_arrival)

    def writelines(self, list_of_data: Any) -> None:
        if self.thread.failing_writes:
            raise MemoryError  # asyncio's transports join the parts
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self._close(None)

    abort = close

    def pause_reading(self) -> None:
        """Do nothing. The simulation does not limit the bytes that a process buffers."""

    def resume_reading(self) -> None:
        """Do nothing, see `pause_reading`."""

    def _close(self, error: Exception | None) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self.network.connections.pop(self.client_id, None)
        self.network.loop.call_soon(self.protocol.connection_lost, error, context=self._context)
        self.network.send_up(self.thread.process, self._close_server_side, self._up_arrival)

    # -- the server's side ---------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Cut the connection, as a reset by the network or by the server does."""
        if not self._is_server_open:
            return
        self._close_server_side()
        error = ConnectionResetError(104, "Connection reset by peer")
        self.network.send_down(self.thread.process, lambda: self._close(error), self._down_arrival)

    def _close_server_side(self) -> None:
        if self._is_server_open:
            self._is_server_open = False
            self._commands.clear()
            self.network.server.close(self.client_id)

    def _receive(self, data: bytes) -> None:
        if not self._is_server_open:
            return
        self._parser.feed(data)
        while (command := self._parser.gets()) is not False:
            self._commands.append(command)
        self._execute_next()

    def _execute_next(self) -> None:
        while self._commands and not self._is_waiting and self._is_server_open:
            arguments = self._commands.popleft()
            self._is_waiting = True
            self.network.server.receive(self.client_id, arguments, partial(self._reply, arguments))

    def _reply(self, arguments: list[bytes], raw: bytes) -> None:
        """Send the reply to the command, and execute the next command."""
        self._is_waiting = False
        if not self._is_server_open:
            return
        self.network.on_reply(self, raw)
        limit = self.network.link(self.thread.process).reply_limit
        if limit is not None and len(raw) > limit:
            self.cut()
            return
        if self.cut_after is not None and self.cut_after < len(raw):
            self.deliver(raw[: self.cut_after])
            self.cut()
            return
        random = self.network.random
        if len(raw) > 1 and random.random() < SPLIT_SHARE:
            middle = random.randrange(1, len(raw))
            self.deliver(raw[:middle])
            self.deliver(raw[middle:])
        else:
            self.deliver(raw)
        self._execute_next()

    def deliver(self, data: bytes) -> None:
        """Send bytes to the process."""
        delay = self.network.link(self.thread.process).down_delay
        size = PIECE_BYTES if delay else len(data)
        for begin in range(0, len(data), size):
            self._deliver_piece(data[begin : begin + size], self._down_arrival + delay * bool(begin))

    def _deliver_piece(self, data: bytes, not_before: int) -> None:
        def arrive() -> None:
            if self._is_open:
                self.network.loop.call_soon(self._data_received, data, context=self._context)

        self._down_arrival = self.network.send_down(self.thread.process, arrive, not_before)

    def _data_received(self, data: bytes) -> None:
        if self._is_open:
            self.network.on_received(self.thread.process)
            self.protocol.data_received(data)
