"""Outages: no entry is lost when the server is down, restarted, frozen or demoted, or when replies are lost."""

import asyncio
import random
import time
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from streamconsumer.processor import current_message
from streamconsumer.processor.consumer.claimer import ClaimedPage, ClaimPage
from streamconsumer.processor.pipeline import reconnect
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import STREAM, Group
from tests.processor.proxy import Proxy
from tests.processor.recorder import Recorder


class Producer:
    """Adds entries as fast as the server accepts them, and records the ids that it confirmed."""

    def __init__(self, server: RedisServer) -> None:
        self.confirmed: list[str] = []
        self._stopped = False
        self._client: Redis = Redis.from_url(server.url, decode_responses=True, retry=None, socket_timeout=30)
        self._task = asyncio.create_task(self._produce())

    async def _produce(self) -> None:
        while not self._stopped:
            try:
                self.confirmed.append(str(await self._client.xadd(STREAM, {"n": "1"})))
                await asyncio.sleep(0.002)
            except (OSError, RedisError):
                await asyncio.sleep(0.02)

    async def stop(self) -> list[str]:
        self._stopped = True
        await self._task
        await self._client.aclose()
        return self.confirmed


async def handle_briefly(data: dict[str, str]) -> None:
    handled.append(current_message().message_id)
    await asyncio.sleep(0.001)


handled: list[str] = []


@pytest.fixture(autouse=True)
def _clear_handled() -> None:
    handled.clear()


async def test_no_entry_is_lost_when_the_server_restarts_under_load(
    any_redis: RedisServer, start_redis: StartRedis
) -> None:
    server = start_redis({"appendonly": "yes", "appendfsync": "always"}, any_redis.flavour)
    group = Group(server)
    for name in ("pod-a", "pod-b"):
        await group.start(handle_briefly, name, min_idle=1, concurrency=4)
    producer = Producer(server)
    for _ in range(2):
        await eventually(lambda: len(producer.confirmed) > 100)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        before = len(producer.confirmed)
        await eventually(lambda before=before: len(producer.confirmed) > before + 100)  # type: ignore[misc] # a lambda with a default
    added = await producer.stop()
    await eventually(lambda: set(handled) >= set(added))
    await group.wait_settled()
    await group.close()


@ON_ONE_SERVER
async def test_no_entry_is_lost_when_the_server_freezes_under_load(any_group: Group) -> None:
    for name in ("pod-a", "pod-b"):
        await any_group.start(handle_briefly, name, min_idle=1, poll=0.2, concurrency=4)
    producer = Producer(any_group.server)
    for _ in range(2):
        await eventually(lambda: len(producer.confirmed) > 100)
        any_group.server.pause()
        await asyncio.sleep(0.7)
        any_group.server.resume()
        await asyncio.sleep(0.2)
    added = await producer.stop()
    await eventually(lambda: set(handled) >= set(added))
    await any_group.wait_settled()


async def test_read_without_a_reply_times_out(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open connection never reports that it is broken."""
    monkeypatch.setattr("streamconsumer.processor.consumer.blocking_reads.READ_TIMEOUT_MARGIN", timedelta(seconds=0.2))
    handler = Recorder()
    processor = await group.start(handler, poll=0.3)
    await group.wait_until_reading()
    group.server.pause()
    await eventually(lambda: processor.metrics.redis_errors)
    assert not processor.health.readiness()[0]
    group.server.resume()
    await group.add(3)
    await handler.wait_until_finished(3)
    assert processor.health.readiness()[0]


async def test_stop_does_not_wait_for_a_frozen_server(group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await group.start(handler, poll=60, concurrency=2)
    await group.add()
    await handler.wait_until_received(1)
    await group.wait_until_reading()
    group.server.pause()
    handler.gate.set()
    started_at = time.monotonic()
    await processor.stop_listening()
    assert time.monotonic() - started_at < TIMEOUT_SECONDS
    group.server.resume()


async def test_stop_does_not_wait_for_an_unreachable_server(group: Group) -> None:
    group.server.pause()  # accepts connections and sends no replies
    processor = await group.start(Recorder())
    await asyncio.sleep(0.1)
    started_at = time.monotonic()
    await processor.stop_listening()
    assert time.monotonic() - started_at < TIMEOUT_SECONDS
    group.server.resume()


async def test_stop_does_not_wait_for_a_claim_on_a_frozen_server(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamconsumer.processor.consumer.large_entries.REPLY_TIMEOUT_SECONDS", 600.0)
    processor = await group.start(Recorder(), poll=60)
    await group.wait_until_reading()
    claimer, claim_started = processor._pipeline.consumer.claimer, asyncio.Event()
    assert claimer

    async def claim(count: int) -> ClaimedPage:
        await claimer.claim_due(count)  # opens the connection
        group.server.pause()
        claim_started.set()
        return await claimer.claim_due(count)

    async def find_claimable() -> list[ClaimPage]:
        return [ClaimPage(claim, "due")]

    monkeypatch.setattr(claimer, "find_claimable", find_claimable)
    claimer.wakeup.set()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await claim_started.wait()
        await processor.stop_listening()
    group.server.resume()


class RandomCut:
    """Cuts some of the replies with entries, at a random position before the last byte."""

    def __init__(self, chance: float) -> None:
        self._chance, self._random = chance, random.Random(7)

    def __call__(self, reply: bytes) -> int | None:
        if STREAM.encode() not in reply or self._random.random() > self._chance:
            return None
        return self._random.choice([0, 1, len(reply) // 2, len(reply) - 1])


async def test_entries_of_a_lost_reply_are_handled(any_group: Group) -> None:
    """The server has delivered the entries, and the client never received them. They are in the pending entries."""
    async with Proxy(any_group.server).running() as proxy:
        proxy.cut_replies(lambda reply: 40 if STREAM.encode() in reply and proxy.cuts == 0 else None)
        ids = await any_group.add(10)
        handler = Recorder()
        await any_group.start(handler, manager=any_group.manager(proxy.url))
        await handler.wait_until_finished(10)
        await any_group.wait_settled()
        assert proxy.cuts == 1
        assert handler.ids == ids
        await any_group.close()


async def test_no_entry_is_lost_or_stuck_after_a_hundred_lost_replies(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "MAX_PAUSE_SECONDS", 0.005)
    async with Proxy(group.server).running() as proxy:
        proxy.cut_replies(RandomCut(0.3))
        manager = group.manager(proxy.url)
        processor = await group.start(handle_briefly, manager=manager, concurrency=3)
        ids = []
        while proxy.cuts < 100:
            ids += await group.add(5)
            await asyncio.sleep(0.005)
        proxy.cut_replies(lambda _: None)
        await eventually(lambda: set(handled) == set(ids))
        await group.wait_settled()
        assert processor.metrics.claimed == 0, "the entries are recovered without waiting for min_idle"
        await group.close()


async def test_processor_reconnects_to_the_new_primary_after_a_failover(start_redis: StartRedis) -> None:
    """The old primary stays up as a replica and keeps its connections open. The processor must close them."""
    old, new = start_redis(), start_redis()
    async with Proxy(old).running() as proxy:
        group = Group(old, proxy.url)
        handler = Recorder()
        processor = await group.start(handler, poll=0.3)
        await group.add()
        await handler.wait_until_finished(1)
        await group.client.replicaof(new.host, new.port)
        await eventually(lambda: processor.metrics.redis_errors)
        assert "replica" in processor.health.readiness()[1]
        proxy.target = (new.host, new.port)
        promoted = Group(new)
        await promoted.add(3)
        await handler.wait_until_finished(4)
        await promoted.wait_settled()
        await promoted.close()
        await group.close()
