"""Connection that waits for the first entry of streams without pods."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.redis_monitor.wakeup import ScaleFromZeroWatcher
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import Command, PipelineClient
from tests.cluster.redis_servers import RedisServer
from tests.operator.redis_operator import redis_client

KEY = ("shop", "orders")


async def test_watcher_leaves_no_task_when_cancelled_while_connecting() -> None:
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept a connection and never reply."""
        await reader.readuntil(b"LIB-VER")
        connected.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        settings = RedisSettings(url=f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        watcher = ScaleFromZeroWatcher(lambda _: None, lambda: PipelineClient(RedisCredentials(settings), "orders"))
        tasks_before = asyncio.all_tasks()
        running = asyncio.create_task(watcher.run())
        watcher.watch(KEY, "orders", "0-0")
        async with asyncio.timeout(20):
            await connected.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        remaining = [task for task in asyncio.all_tasks() - tasks_before if "silent" not in repr(task)]
    assert remaining == []


class FailingClient(PipelineClient):
    """Client that fails before it connects."""

    async def execute(self, commands: Sequence[Command]) -> list[Any] | RedisErrorInfo:
        raise InvalidSettings("file not found")


async def test_watcher_reconnects_when_a_connection_fails() -> None:
    """A certificate rotation, for example, closes the files of the old certificate."""
    attempts: asyncio.Queue[None] = asyncio.Queue()
    kinds = iter([None, FailingClient])

    def connect() -> PipelineClient:
        attempts.put_nowait(None)
        if (kind := next(kinds, FailingClient)) is None:
            raise InvalidSettings("file not found")
        return kind(RedisCredentials(RedisSettings(url="redis://127.0.0.1:1/0")), "orders")

    watcher = ScaleFromZeroWatcher(lambda _: None, connect)
    running = asyncio.create_task(watcher.run())
    watcher.watch(KEY, "orders", "0-0")
    async with asyncio.timeout(20):
        for _ in range(3):
            await attempts.get()
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_entry_above_the_limit_of_a_reply_wakes_its_streamconsumer_once(redis_server: RedisServer) -> None:
    """The blocking read would return the entry, so the ids of the streams are read instead."""
    redis = redis_client(redis_server)
    redis.xadd("other", {"n": 1}, id="5-0")
    woken: asyncio.Queue[Key] = asyncio.Queue()
    settings = RedisSettings(url=f"redis://{redis_server.host}:{redis_server.port}/0")
    clients: list[PipelineClient] = []

    def connect() -> PipelineClient:
        clients.append(PipelineClient(RedisCredentials(settings), "orders", 60))
        return clients[-1]

    watcher = ScaleFromZeroWatcher(woken.put_nowait, connect)
    running = asyncio.create_task(watcher.run())
    watcher.watch(KEY, "orders", "0-0")
    watcher.watch(("shop", "other"), "other", "5-0")
    try:
        async with asyncio.timeout(30):
            redis.xadd("orders", {"n": "x" * 5_000_000}, id="1-0")
            assert await woken.get() == KEY
            redis.xadd("other", {"n": 2}, id="6-0")
            assert await woken.get() == ("shop", "other")
            redis.xadd("orders", {"n": 2}, id="2-0")
            assert await woken.get() == KEY
        assert woken.empty()
        assert len(clients) == 2, "the large entry is read once"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        redis.close()


async def test_server_that_always_reports_an_entry_is_read_once_per_second() -> None:
    """Otherwise a hostile server could cause a poll every 50 ms."""
    commands, woken = 0, 0

    class Eager(PipelineClient):
        """Client of a server that reports a new entry to every read."""

        async def execute(self, commands_: Sequence[Command]) -> list[Any] | RedisErrorInfo:
            nonlocal commands
            commands += 1
            return [[[b"orders", [[b"%d-0" % commands, [b"a", b"b"]]]]]]

    def on_entry(_: Key) -> None:
        nonlocal woken
        woken += 1

    settings = RedisSettings(url="redis://127.0.0.1:1/0")
    watcher = ScaleFromZeroWatcher(on_entry, lambda: Eager(RedisCredentials(settings), "orders"))
    running = asyncio.create_task(watcher.run())
    watcher.watch(KEY, "orders", "0-0")
    await asyncio.sleep(0.5)
    assert woken == 1, "the first entry wakes its StreamConsumer immediately"
    await asyncio.sleep(2)
    assert 2 <= woken <= 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
