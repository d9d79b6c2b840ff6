"""TCP proxy in front of a server or collector that can cut connections and delay replies."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol


class ServerAddress(Protocol):
    """Address of a listening server, such as a RedisServer."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Proxy:
    """Forwards bytes to `target`, which may be changed, and cuts connections on request."""

    def __init__(self, server: ServerAddress) -> None:
        self.target = (server.host, server.port)
        self.cuts = 0
        self.delay_seconds = 0.0
        """Delay of each reply."""
        self._cut_position: Callable[[bytes], int | None] = lambda _: None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def address(self) -> str:
        assert self._listener
        return f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def cut_replies(self, cut_position: Callable[[bytes], int | None]) -> None:
        """Cut connections at `cut_position(reply)` bytes of a reply from now on. None forwards the whole reply."""
        self._cut_position = cut_position

    def cut_now(self) -> None:
        """Cut all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._listener.close()
            self.cut_now()
            await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._handlers.add(task)
        writers = {writer}
        self._writers.add(writer)  # before anything is awaited: `cut_now` must not miss it
        with suppress(OSError):
            to_reader, to_writer = await asyncio.open_connection(*self.target)
            writers.add(to_writer)
            self._writers.add(to_writer)
            await asyncio.gather(self._forward_requests(reader, to_writer), self._forward_replies(to_reader, writer))
        self._writers -= writers
        for open_writer in writers:
            open_writer.transport.abort()
        self._handlers.discard(task)

    async def _forward_requests(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
        target.transport.abort()

    async def _forward_replies(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if (after := self._cut_position(data)) is not None:
                    self.cuts += 1
                    target.write(data[:after])
                    await target.drain()
                    break
                target.write(data)
        target.close()
