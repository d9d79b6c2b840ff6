"""Sentinel: the processor connects to the primary, even after a failover under load."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.processor import StreamManager, current_message
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.topology import topology
from tests.cluster.redis_servers import RedisServer, SentinelServer, StartRedis
from tests.processor.eventually import eventually
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder

NOWHERE = "127.0.0.1:1"


class MonitoredPrimary:
    """Primary with a replica, and a sentinel that monitors both."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinel: SentinelServer) -> None:
        self.primary, self.replica, self.sentinel = primary, replica, sentinel
        self.group = Group(primary)
        self.managers: list[StreamManager] = []

    def access(self, *nodes: str, **settings: Any) -> RedisSettings:
        sentinel_nodes = nodes or (f"{self.sentinel.host}:{self.sentinel.port}",)
        return RedisSettings(
            url="redis:///0", sentinel_master=SentinelServer.master, sentinel_nodes=sentinel_nodes, **settings
        )

    def manager(self, *nodes: str, **settings: Any) -> StreamManager:
        self.managers.append(StreamManager.from_settings(self.access(*nodes, **settings), STREAM))
        return self.managers[-1]

    async def replicates(self) -> None:
        """Wait until the replica receives each write, and the sentinel knows it."""
        async with Redis(port=self.sentinel.port) as asked:

            async def knows() -> bool:
                return bool(await asked.sentinel_slaves(SentinelServer.master))

            await eventually(knows)

        # `online` in INFO is not enough: a replica gets writes only from its own first acknowledgement on.
        await self.group.client.set("written", 1)
        assert await self.group.client.wait(1, 15_000) == 1

    async def close(self) -> None:
        await self.group.close()
        for manager in self.managers:
            await manager.aclose()


@pytest.fixture
async def monitored(start_redis: StartRedis) -> AsyncIterator[MonitoredPrimary]:
    primary = start_redis()
    replica = start_redis({"replicaof": f"{primary.host} {primary.port}"})
    sentinel = SentinelServer(primary)
    with sentinel:
        made = MonitoredPrimary(primary, replica, sentinel)
        yield made
        await made.close()


async def test_processor_connects_to_the_primary_that_the_sentinels_report(monitored: MonitoredPrimary) -> None:
    handler = Recorder()
    manager = monitored.manager(NOWHERE, f"127.0.0.1:{monitored.sentinel.port}")
    await monitored.group.start(handler, manager=manager)
    await monitored.group.add(3)
    await handler.wait_until_finished(3)
    assert manager.address == (monitored.primary.host, monitored.primary.port)


async def test_sentinel_client_of_redis_py_works(monitored: MonitoredPrimary) -> None:
    sentinel = Sentinel([("127.0.0.1", monitored.sentinel.port)])  # type: ignore[no-untyped-call] # ships no types
    client = sentinel.master_for(SentinelServer.master)
    manager = StreamManager(client)
    await client.aclose()
    await sentinel.aclose()
    del client, sentinel  # the manager must not need them
    handler = Recorder()
    await monitored.group.start(handler, manager=manager)
    await monitored.group.add(3)
    await handler.wait_until_finished(3)
    await monitored.group.processors[0].stop_listening()
    await manager.aclose()


def test_synchronous_client_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"found redis\.client\.Redis, expected redis\.asyncio"):
        StreamManager(redis.Redis())  # type: ignore[arg-type]


async def test_error_names_each_sentinel_that_does_not_know_the_primary(monitored: MonitoredPrimary) -> None:
    node = f"127.0.0.1:{monitored.sentinel.port}"
    access = monitored.access(NOWHERE, node).model_copy(update={"sentinel_master": "other"})
    with pytest.raises(RedisError) as caught:
        await topology(RedisCredentials(access), STREAM).find_primary()
    message = str(caught.value)
    assert message.startswith(
        "no sentinel reports the address of the primary 'other' (127.0.0.1:1: Error 111 connecting"
    )
    assert f"{node}: the sentinel does not know a primary with this name" in message


def test_address_is_a_sentinel_until_the_primary_is_known() -> None:
    settings = RedisSettings(url="redis:///0", sentinel_master="main", sentinel_nodes=["sentinel-0:26379", "b:26379"])
    assert topology(RedisCredentials(settings), STREAM).address == ("sentinel-0", 26379)


async def test_sentinels_may_require_their_own_password(start_redis: StartRedis, tmp_path: Path) -> None:
    primary = start_redis({"requirepass": "of-redis"})
    with SentinelServer(primary, {"requirepass": "of-the-sentinel"}) as sentinel:
        file = tmp_path / "password"
        file.write_text("of-the-sentinel")
        settings = {"url": "redis://:of-redis@/0", "sentinel_password_file": str(file)}
        nodes = [f"127.0.0.1:{sentinel.port}"]
        access = RedisSettings(**settings, sentinel_master=SentinelServer.master, sentinel_nodes=nodes)
        manager = StreamManager.from_settings(access, STREAM)
        assert await manager.execute("PING") == b"PONG"
        file.write_text("wrong")
        await manager.drop_connections()
        with pytest.raises(RedisError, match=r"no sentinel reports .*invalid username-password pair"):
            await manager.execute("PING")
        await manager.aclose()
        file.unlink()
        with pytest.raises(InvalidSettings, match="SENTINEL_PASSWORD_FILE"):
            StreamManager.from_settings(access, STREAM)


@pytest.mark.parametrize("how", ["killed", "frozen", "asked"])
async def test_failover_under_load_loses_no_entry_of_the_new_primary(monitored: MonitoredPrimary, how: str) -> None:
    """Entries that the old primary had not replicated are lost.

    Each entry of the new primary is handled and acknowledged.
    """
    handled: set[str] = set()

    async def handle(data: dict[str, str]) -> None:
        handled.add(current_message().message_id)
        await asyncio.sleep(0.001)

    await monitored.replicates()
    manager = monitored.manager()
    for name in ("pod-a", "pod-b"):
        await monitored.group.start(handle, name, manager=manager, min_idle=1, poll=1, concurrency=4)
    stop = asyncio.Event()
    producer = asyncio.create_task(produce(monitored, stop))
    await eventually(lambda: len(handled) > 200)
    before = len(handled)
    await fail_over(monitored, how)
    on_new = Group(monitored.replica)

    async def entries() -> set[str]:
        return {str(entry[0]) for entry in await on_new.client.xrange(STREAM) or []}

    async def goes_on() -> bool:  # entries that the old primary accepted after the failover are lost
        with suppress(RedisError):  # a promoted server closes the connections of its clients
            return len(handled & await entries()) > before + 200
        return False

    await eventually(goes_on, within=30)
    assert manager.address == (monitored.replica.host, monitored.replica.port)
    stop.set()
    await producer
    left = await entries()
    await eventually(lambda: handled >= left)
    await on_new.wait_settled()
    await on_new.close()
    monitored.primary.resume()
    for processor in monitored.group.processors:
        await asyncio.wait_for(processor.stop_listening(), 10)
        assert not processor.metrics.groups_recreated


async def produce(monitored: MonitoredPrimary, stop: asyncio.Event) -> None:
    """Add entries as fast as the current primary accepts them."""
    sentinel = Sentinel([("127.0.0.1", monitored.sentinel.port)])  # type: ignore[no-untyped-call] # ships no types
    client = sentinel.master_for(SentinelServer.master, socket_timeout=0.5)
    while not stop.is_set():
        with suppress(RedisError, OSError):
            await client.xadd(STREAM, {"n": "1"})
        await asyncio.sleep(0.002)
    await client.aclose()
    await sentinel.aclose()


async def fail_over(monitored: MonitoredPrimary, how: str) -> None:
    if how == "killed":
        await asyncio.to_thread(monitored.primary.kill)
    elif how == "frozen":
        monitored.primary.pause()
    else:
        async with Redis(port=monitored.sentinel.port) as asked:
            await asked.execute_command("SENTINEL", "FAILOVER", SentinelServer.master)  # type: ignore[no-untyped-call] # ships no types
