"""Redis servers that misbehave: one listening port for each behaviour, all in one thread.

A behaviour is a coroutine function that serves one connection. `behaviours` contains them by name.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

HOST = "127.0.0.1"

Command = list[bytes]


class Connection:
    """Connection of a client, as a behaviour sees it."""

    def __init__(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: bytearray
    ) -> None:
        self.port, self._reader, self._writer, self._received = port, reader, writer, received

    async def read_command(self) -> Command:
        """Read one command. Raises ConnectionError or asyncio.IncompleteReadError at the end of the connection."""
        line = await self._read_line()
        if not line.startswith(b"*"):
            return line.split()
        return [await self._read_bulk() for _ in range(int(line[1:]))]

    async def send(self, data: bytes) -> None:
        """Send data, and wait while the client does not read."""
        self._writer.write(data)
        await self._writer.drain()

    async def discard_input(self) -> None:
        """Read until the client closes the connection."""
        while await self._read_some():
            pass

    async def send_forever(self, data: bytes) -> None:
        """Send data until the client closes the connection. The pauses leave processor time to the client."""
        while True:
            await self.send(data)
            await asyncio.sleep(0)

    async def _read_some(self) -> bytes:
        data = await self._reader.read(65536)
        self._received += data
        return data

    async def _read_line(self) -> bytes:
        line = await self._reader.readuntil(b"\r\n")
        self._received += line
        return line[:-2]

    async def _read_bulk(self) -> bytes:
        header = await self._read_line()
        data = await self._reader.readexactly(int(header[1:]) + 2)
        self._received += data
        return data[:-2]


Behaviour = Callable[[Connection], Awaitable[None]]


class HostileServers:
    """Serves each behaviour on a port of its own for the duration of a context."""

    def __init__(self, behaviours: Mapping[str, Behaviour]) -> None:
        self._behaviours = dict(behaviours)
        self.ports: dict[str, int] = {}
        self.connections: Counter[str] = Counter()
        self.received: list[bytearray] = []
        """The bytes that each connection has received."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def url(self, name: str) -> str:
        return f"redis://{HOST}:{self.ports[name]}/0"

    def all_received(self) -> bytes:
        """Return the bytes that all servers have received."""
        return b"\n".join(map(bytes, self.received))

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(20)
        return self

    def __exit__(self, *raised: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        for name, behaviour in self._behaviours.items():
            server = await asyncio.start_server(self._handler(name, behaviour), HOST, 0, limit=1 << 20)
            self._servers.append(server)
            self.ports[name] = server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _handler(
        self, name: str, behaviour: Behaviour
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._tasks.add(task)
            self.connections[name] += 1
            self.received.append(bytearray())
            connection = Connection(self.ports[name], reader, writer, self.received[-1])
            try:
                with contextlib.suppress(
                    OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError
                ):
                    await behaviour(connection)
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        return handle
