import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.operator.redis_monitor.dns import NamespaceResolver
from streamconsumer.operator.redis_monitor.wakeup import ScaleFromZeroWatcher
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import Command, PipelineClient

KEY = ("shop", "orders")


async def test_who_is_cancelled_while_it_connects_leaves_nothing_behind() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A server that takes connections and never answers."""
        await reader.readuntil(b"LIB-VER")
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        settings = RedisSettings(url=f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        alarm = ScaleFromZeroWatcher(
            lambda _: None, lambda: PipelineClient(settings, "orders", NamespaceResolver("shop").resolve)
        )
        before = asyncio.all_tasks()
        running = asyncio.create_task(alarm.run())
        alarm.watch(KEY, "orders", "0-0")
        async with asyncio.timeout(20):
            await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        left = [each for each in asyncio.all_tasks() - before if "silent" not in repr(each)]
    assert left == []


class Broken(PipelineClient):
    """One that cannot even be tried."""

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        raise InvalidSettings("there is no such file")


async def test_what_goes_wrong_with_one_connection_is_not_the_end_of_listening() -> None:
    """A certificate that was exchanged, for example: the files of the old one are closed."""
    attempts: asyncio.Queue[None] = asyncio.Queue()
    kinds = iter([None, Broken])

    def connect() -> PipelineClient:
        attempts.put_nowait(None)
        if (kind := next(kinds, Broken)) is None:
            raise InvalidSettings("there is no such file")
        return kind(RedisSettings(url="redis://127.0.0.1:1/0"), "orders", NamespaceResolver("shop").resolve)

    alarm = ScaleFromZeroWatcher(lambda _: None, connect)
    running = asyncio.create_task(alarm.run())
    alarm.watch(KEY, "orders", "0-0")
    async with asyncio.timeout(20):
        for _ in range(3):
            await attempts.get()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
