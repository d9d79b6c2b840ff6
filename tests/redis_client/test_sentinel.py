"""Sentinel: the processor goes where the primary is, also after a failover under load."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.processor import StreamManager, current_message
from streamconsumer.redis_client.topology import topology
from tests.cluster.redis_servers import RedisServer, SentinelServer, StartRedis
from tests.processor.eventually import eventually
from tests.processor.group import STREAM, Group
from tests.processor.recorder import Recorder

NOWHERE = "127.0.0.1:1"


class Watched:
    """A primary with a replica, and a sentinel that watches both."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinel: SentinelServer) -> None:
        self.primary, self.replica, self.sentinel = primary, replica, sentinel
        self.group = Group(primary)
        self.managers: list[StreamManager] = []

    def access(self, *nodes: str, **settings: Any) -> RedisSettings:
        given = nodes or (f"{self.sentinel.host}:{self.sentinel.port}",)
        return RedisSettings(url="redis:///0", sentinel_master=SentinelServer.master, sentinel_nodes=given, **settings)

    def manager(self, *nodes: str, **settings: Any) -> StreamManager:
        self.managers.append(StreamManager.from_settings(self.access(*nodes, **settings), STREAM))
        return self.managers[-1]

    async def replicates(self) -> None:
        """Wait until the replica gets each write, and the sentinel knows of it."""
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
async def watched(start_redis: StartRedis) -> AsyncIterator[Watched]:
    primary = start_redis()
    replica = start_redis({"replicaof": f"{primary.host} {primary.port}"})
    sentinel = SentinelServer(primary)
    with sentinel:
        made = Watched(primary, replica, sentinel)
        yield made
        await made.close()


async def test_the_primary_is_where_the_sentinels_say(watched: Watched) -> None:
    handler = Recorder()
    manager = watched.manager(NOWHERE, f"127.0.0.1:{watched.sentinel.port}")
    await watched.group.start(handler, manager=manager)
    await watched.group.add(3)
    await handler.wait_until_finished(3)
    assert manager.address == (watched.primary.host, watched.primary.port)


async def test_a_client_that_redis_py_made_for_a_sentinel_works_too(watched: Watched) -> None:
    sentinel = Sentinel([("127.0.0.1", watched.sentinel.port)])  # type: ignore[no-untyped-call] # ships no types
    client = sentinel.master_for(SentinelServer.master)
    manager = StreamManager(client)
    handler = Recorder()
    await watched.group.start(handler, manager=manager)
    await watched.group.add(3)
    await handler.wait_until_finished(3)
    await watched.group.processors[0].stop_listening()
    await manager.aclose()
    await client.aclose()
    await sentinel.aclose()


async def test_sentinels_that_do_not_know_are_told_one_by_one(watched: Watched) -> None:
    node = f"127.0.0.1:{watched.sentinel.port}"
    access = watched.access(NOWHERE, node).model_copy(update={"sentinel_master": "other"})
    with pytest.raises(RedisError) as caught:
        await topology(access, STREAM).find_primary()
    told = str(caught.value)
    assert told.startswith("no sentinel says where the primary 'other' is (127.0.0.1:1: Error 111 connecting")
    assert f"{node}: does not know a primary of this name" in told


async def test_sentinels_may_want_a_password_of_their_own(start_redis: StartRedis, tmp_path: Path) -> None:
    primary = start_redis({"requirepass": "of-redis"})
    with SentinelServer(primary, {"requirepass": "of-the-sentinel"}) as sentinel:
        file = tmp_path / "password"
        file.write_text("of-the-sentinel")
        said = {"url": "redis://:of-redis@/0", "sentinel_password_file": str(file)}
        nodes = [f"127.0.0.1:{sentinel.port}"]
        access = RedisSettings(**said, sentinel_master=SentinelServer.master, sentinel_nodes=nodes)
        manager = StreamManager.from_settings(access, STREAM)
        assert await manager.execute("PING") == b"PONG"
        file.write_text("wrong")
        await manager.drop_connections()
        with pytest.raises(RedisError, match=r"no sentinel says .*invalid username-password pair"):
            await manager.execute("PING")
        await manager.aclose()
        file.unlink()
        with pytest.raises(InvalidSettings, match="SENTINEL_PASSWORD_FILE"):
            StreamManager.from_settings(access, STREAM)


@pytest.mark.parametrize("how", ["killed", "frozen", "asked"])
async def test_a_failover_under_load_loses_nothing_that_the_new_primary_has(watched: Watched, how: str) -> None:
    """What the old primary had not handed on is lost with it, and nobody can help that: each entry that the new one
    has is handled and acknowledged."""
    handled: set[str] = set()

    async def handle(data: dict[str, str]) -> None:
        handled.add(current_message().message_id)
        await asyncio.sleep(0.001)

    await watched.replicates()
    manager = watched.manager()
    for name in ("pod-a", "pod-b"):
        await watched.group.start(handle, name, manager=manager, min_idle=1, poll=1, concurrency=4)
    stop = asyncio.Event()
    producer = asyncio.create_task(produce(watched, stop))
    await eventually(lambda: len(handled) > 200)
    before = len(handled)
    await fail_over(watched, how)
    on_new = Group(watched.replica)

    async def entries() -> set[str]:
        return {str(entry[0]) for entry in await on_new.client.xrange(STREAM) or []}

    async def goes_on() -> bool:  # what the old one took while it did not know yet that it is one is not there
        with suppress(RedisError):  # who is promoted ends the connections of its clients
            return len(handled & await entries()) > before + 200
        return False

    await eventually(goes_on, within=30)
    assert manager.address == (watched.replica.host, watched.replica.port)
    stop.set()
    await producer
    left = await entries()
    await eventually(lambda: handled >= left)
    await on_new.wait_settled()
    await on_new.close()
    watched.primary.resume()
    for processor in watched.group.processors:
        await asyncio.wait_for(processor.stop_listening(), 10)
        assert not processor.metrics.groups_recreated


async def produce(watched: Watched, stop: asyncio.Event) -> None:
    """Add entries as fast as the primary takes them, wherever that is."""
    sentinel = Sentinel([("127.0.0.1", watched.sentinel.port)])  # type: ignore[no-untyped-call] # ships no types
    client = sentinel.master_for(SentinelServer.master, socket_timeout=0.5)
    while not stop.is_set():
        with suppress(RedisError, OSError):
            await client.xadd(STREAM, {"n": "1"})
        await asyncio.sleep(0.002)
    await client.aclose()
    await sentinel.aclose()


async def fail_over(watched: Watched, how: str) -> None:
    if how == "killed":
        await asyncio.to_thread(watched.primary.kill)
    elif how == "frozen":
        watched.primary.pause()
    else:
        async with Redis(port=watched.sentinel.port) as asked:
            await asked.execute_command("SENTINEL", "FAILOVER", SentinelServer.master)  # type: ignore[no-untyped-call] # ships no types
