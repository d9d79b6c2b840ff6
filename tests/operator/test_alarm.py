import asyncio

import pytest

from streamconsumer.model.settings import RedisAccess
from streamconsumer.operator.streams.alarm import Alarm
from streamconsumer.operator.streams.names import Names
from streamconsumer.server.line import Line

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
        settings = RedisAccess(url=f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        alarm = Alarm(lambda _: None, lambda: Line(settings, "orders", Names("shop").dial))
        before = asyncio.all_tasks()
        running = asyncio.create_task(alarm.run())
        alarm.set(KEY, "orders", "0-0")
        async with asyncio.timeout(20):
            await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        left = [each for each in asyncio.all_tasks() - before if "silent" not in repr(each)]
    assert left == []
