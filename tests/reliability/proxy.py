"""TCP proxy that recognises each Redis command and can disturb it as a network would.

The proxy runs in a thread with its own event loop, because tests are plain functions and pods are processes.
"""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import StrEnum
from typing import Any, Self

from tests.reliability import resp

SLOW_SECONDS = 0.3


class NetworkFault(StrEnum):
    """Fault of one command on the network."""

    CUT_BEFORE = "cut before the request"
    """The server does not receive the request."""
    CUT_AFTER = "cut after the request"
    """The server executes the command; the client gets no reply."""
    CUT_IN_REPLY = "cut in mid-reply"
    DELAY = "delay"
    HALVES = "halves"
    """Request and reply arrive in two parts with a pause between them."""
    BLACK_HOLE = "black hole"
    """The command is executed without a reply. The connection stays open and no later reply arrives."""


Plan = Callable[[str], NetworkFault | None]
"""Returns the fault for a command with this label, or None."""


class SingleFault:
    """Plan with one fault at one occurrence of one command."""

    def __init__(self, label: str, fault: NetworkFault, occurrence: int = 1) -> None:
        self._label, self._fault, self._occurrences_left = label, fault, occurrence

    def __call__(self, label: str) -> NetworkFault | None:
        self._occurrences_left -= label == self._label
        if label != self._label or self._occurrences_left != 0:
            return None
        return self._fault

    @property
    def is_done(self) -> bool:
        return self._occurrences_left <= 0


class Proxy:
    """Forwards commands to `target`, which can be changed, with the faults of `plan`."""

    def __init__(self, host: str, port: int, plan: Plan = lambda _: None) -> None:
        self.target = (host, port)
        self.plan = plan
        self.command_counts: Counter[str] = Counter()
        self.slowness_seconds = 0.0
        """Delay of each request and of each reply, on all connections."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        self._thread.start()
        self._listener = self._wait_for(self._listen())
        return self

    def stop(self) -> None:
        self._wait_for(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.sockets[0].getsockname()
        return host, port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.address[1]}/0"

    def cut_all(self) -> None:
        """Cut every connection."""
        self._loop.call_soon_threadsafe(self._cut_all)

    def set_target(self, host: str, port: int) -> None:
        """Connect new clients to another server and cut existing connections, like a Service with a new endpoint."""
        self.target = (host, port)
        self.cut_all()

    # -- in the thread -------------------------------------------------------------------------------------------

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._listener.close()
        self._cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut_all(self) -> None:
        for link in list(self._links):
            link.cut()

    def _new_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> "_Link":
        return _Link(self, client, server)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            to_reader, to_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        link = self._new_link(writer, to_writer)
        self._links.add(link)
        try:
            with suppress(asyncio.CancelledError):  # asyncio's streams would log it as an error
                await asyncio.gather(link.requests(reader), link.replies(to_reader))
        finally:
            self._links.discard(link)
            link.cut()


class DelayProxy(Proxy):
    """Forwards data `delay_seconds` after it arrives, in each direction, as a slow path to the server does.

    The proxy does not delay connects: they need no time of the server.
    """

    delay_seconds = 0.0

    def _new_link(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> "_Link":
        return _DelayedLink(self, client, server)


class _Link:
    """Connection of a client and the connection to the server for it."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._expected: deque[NetworkFault | None] = deque()
        self._is_black_hole = False

    def cut(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()

    async def requests(self, source: asyncio.StreamReader) -> None:
        with suppress(OSError):
            async for request in _read_values(source):
                label = resp.command_label(resp.parse_command(request))
                self._proxy.command_counts[label] += 1
                fault = self._proxy.plan(label)
                if self._proxy.slowness_seconds:
                    await asyncio.sleep(self._proxy.slowness_seconds)
                if fault is NetworkFault.CUT_BEFORE:
                    break
                self._expected.append(fault)
                await _forward(request, self._server, in_halves=fault is NetworkFault.HALVES)
        self.cut()

    async def replies(self, source: asyncio.StreamReader) -> None:
        with suppress(OSError):
            async for reply in _read_values(source):
                fault = self._expected.popleft() if self._expected and not reply.startswith(b">") else None
                if self._proxy.slowness_seconds:
                    await asyncio.sleep(self._proxy.slowness_seconds)
                if fault is NetworkFault.CUT_AFTER:
                    break
                if fault is NetworkFault.CUT_IN_REPLY:
                    self._client.write(reply[: len(reply) // 2])
                    await self._client.drain()
                    break
                if fault is NetworkFault.DELAY:
                    await asyncio.sleep(SLOW_SECONDS)
                self._is_black_hole |= fault is NetworkFault.BLACK_HOLE
                if not self._is_black_hole:
                    await _forward(reply, self._client, in_halves=fault is NetworkFault.HALVES)
        if self._client.transport.is_closing() or not self._is_black_hole:
            # close() still sends the buffer, so that half a reply arrives as half a reply.
            self._client.close()
            self._server.transport.abort()


class _DelayedLink(_Link):
    """Connection whose data, and whose end, arrive after the delay of the proxy."""

    def __init__(self, proxy: DelayProxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        super().__init__(proxy, client, server)
        self._delaying_proxy = proxy

    async def requests(self, source: asyncio.StreamReader) -> None:
        await self._carry(source, self._server)

    async def replies(self, source: asyncio.StreamReader) -> None:
        await self._carry(source, self._client)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        now = asyncio.get_running_loop().time
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await on_the_way.get()
                await asyncio.sleep(due - now())
                if not data:
                    return
                target.write(data)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deliver())
            data = b"-"
            while data:
                data = b""
                with suppress(OSError):  # a reset connection ends as a closed connection
                    data = await source.read(1 << 16)
                on_the_way.put_nowait((now() + self._delaying_proxy.delay_seconds, data))
        target.close()


async def _forward(data: bytes, target: asyncio.StreamWriter, *, in_halves: bool) -> None:
    if in_halves:
        target.write(data[: len(data) // 2])
        await target.drain()
        await asyncio.sleep(SLOW_SECONDS)
        data = data[len(data) // 2 :]
    target.write(data)
    await target.drain()


async def _read_values(source: asyncio.StreamReader) -> Any:
    """Yield complete requests or replies."""
    data = bytearray()
    while more := await source.read(1 << 16):
        data += more
        begin = 0
        while begin < len(data) and (end := resp.find_end(data, begin)) is not None:
            yield bytes(data[begin:end])
            begin = end
        del data[:begin]
