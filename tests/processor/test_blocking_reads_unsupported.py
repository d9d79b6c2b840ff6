"""Servers and proxies that do not support blocking reads, as some managed services do not."""

import asyncio
from contextlib import suppress

from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.proxy import Proxy, ServerAddress
from tests.processor.recorder import Recorder


class RewritingProxy(Proxy):
    """Proxy that replaces bytes in requests."""

    def __init__(self, server: ServerAddress, old: bytes, new: bytes) -> None:
        super().__init__(server)
        self._old, self._new = old, new

    async def _forward_requests(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data.replace(self._old, self._new))
        target.transport.abort()


async def test_processor_polls_if_the_server_ignores_block(group: Group) -> None:
    handler = Recorder()
    async with RewritingProxy(group.server, b"BLOCK\r\n$3\r\n500\r\n", b"BLOCK\r\n$1\r\n1\r\n").running() as proxy:
        processor = await group.start(handler, poll=0.5, manager=group.manager(proxy.url))
        await eventually(lambda: not processor._pipeline.consumer.is_blocking)
        reads = processor.metrics.reads
        await asyncio.sleep(2)
        assert processor.metrics.reads - reads <= 6
        await group.add(3)
        await handler.wait_until_finished(3)


async def test_pause_grows_if_the_server_refuses_block(group: Group) -> None:
    """Reads of own pending entries still succeed, because these reads do not block."""
    async with RewritingProxy(group.server, b"BLOCK\r\n", b"BLOCX\r\n").running() as proxy:
        processor = await group.start(Recorder(), poll=0.5, manager=group.manager(proxy.url))
        await eventually(lambda: processor._reconnect_backoff.consecutive_failures >= 5)
        assert "syntax error" in processor.health.readiness()[1].lower()
