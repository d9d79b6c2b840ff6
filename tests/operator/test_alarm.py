import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisAccess
from streamconsumer.operator.redis_monitor.dns import Names
from streamconsumer.operator.redis_monitor.wakeup import Alarm
from streamconsumer.redis_client.errors_table import Fault
from streamconsumer.redis_client.pipeline_client import Line, Question

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


class Broken(Line):
    """One that cannot even be tried."""

    async def ask(self, questions: Sequence[Question]) -> list[Any] | Fault:
        raise InvalidSettings("there is no such file")


async def test_what_goes_wrong_with_one_connection_is_not_the_end_of_listening() -> None:
    """A certificate that was exchanged, for example: the files of the old one are closed."""
    attempts: asyncio.Queue[None] = asyncio.Queue()
    kinds = iter([None, Broken])

    def connect() -> Line:
        attempts.put_nowait(None)
        if (kind := next(kinds, Broken)) is None:
            raise InvalidSettings("there is no such file")
        return kind(RedisAccess(url="redis://127.0.0.1:1/0"), "orders", Names("shop").dial)

    alarm = Alarm(lambda _: None, connect)
    running = asyncio.create_task(alarm.run())
    alarm.set(KEY, "orders", "0-0")
    async with asyncio.timeout(20):
        for _ in range(3):
            await attempts.get()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
