"""Drain: running messages are finished, unstarted entries are released, and the drain ends within its timeout."""

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor import Retry
from streamconsumer.processor.consumer import liveness
from streamconsumer.processor.consumer.large_entries import Claimed
from streamconsumer.processor.consumer.pending_entries import PendingEntries
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder, fail_first_delivery


async def test_running_messages_are_finished_and_acknowledged(any_group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, concurrency=5)
    ids = await any_group.add(5)
    await handler.wait_until_received(5)
    stopping = asyncio.create_task(processor.stop_listening())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    assert processor.health.readiness() == (False, "draining")
    handler.gate.set()
    await stopping
    assert sorted(handler.finished) == sorted(ids)
    assert await any_group.pending() == 0


async def test_unstarted_entries_are_released_immediately(any_group: Group) -> None:
    """Another consumer can claim the entries during the drain. The released delivery is not counted."""
    handler = Recorder(gate=False)
    running, *unstarted = await any_group.add(8)
    processor = await any_group.start(handler, drain=60)
    await handler.wait_until_received(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor.metrics.released == 7)
    await asyncio.sleep(1)  # time for a renewal
    released = [entry for entry in await any_group.entries() if entry.message_id != running]
    assert [entry.message_id for entry in released] == unstarted
    assert {entry.consumer for entry in released} == {POSTPONED_CONSUMER}
    assert {entry.deliveries for entry in released} == {0}

    peer = Recorder()
    await any_group.start(peer, "pod-b")
    await peer.wait_until_finished(7)
    assert peer.ids == unstarted
    assert {message.deliveries for message in peer.received} == {1}
    handler.gate.set()
    await stopping
    await any_group.wait_settled()
    assert handler.ids == [running]


@pytest.mark.parametrize("is_retry", [False, True], ids=["unstarted", "waits for a retry"])
async def test_release_that_failed_is_repeated_at_the_end_of_the_drain(
    any_group: Group, is_retry: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis refuses writes when the drain starts, and accepts them again before the last handler returns."""
    gate = asyncio.Event()

    async def handle(data: dict[str, Any]) -> None:
        if data["n"] == "1":
            raise Retry("bad", after=timedelta(seconds=2))
        await gate.wait()

    _, unstarted = await any_group.add(2)
    processor = await any_group.start(handle, concurrency=2 if is_retry else 1)
    await eventually(lambda: len(processor._pipeline.in_flight.entries) == 2)
    await eventually(lambda: processor.metrics.retried == is_retry)
    await any_group.client.config_set("min-replicas-to-write", 1)
    try:
        stopping = asyncio.create_task(processor.stop_listening())
        await eventually(lambda: "Redis unavailable while draining; continuing" in caplog.messages)
    finally:
        await any_group.client.config_set("min-replicas-to-write", 0)
    gate.set()
    await stopping
    [entry] = await any_group.entries()
    assert (entry.message_id, entry.consumer, entry.deliveries) == (unstarted, POSTPONED_CONSUMER, is_retry)
    assert processor.metrics.released == 1


async def test_drain_timeout_leaves_running_messages_pending(any_group: Group) -> None:
    handler = Recorder(gate=False)
    [message_id] = await any_group.add()
    processor = await any_group.start(handler, drain=0.3)
    await handler.wait_until_received(1)
    started = time.monotonic()
    await processor.stop_listening()
    assert 0.25 < time.monotonic() - started < TIMEOUT_SECONDS
    assert handler.cancelled == [message_id]
    assert [entry.message_id for entry in await any_group.entries()] == [message_id]
    assert processor.metrics.failed == 0


async def test_force_stop_ends_the_drain(group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await group.start(handler, drain=60)
    await group.add()
    await handler.wait_until_received(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await asyncio.sleep(0.05)
    processor.force_stop()
    await asyncio.wait_for(stopping, TIMEOUT_SECONDS)
    assert await group.pending() == 1


async def test_handler_that_ignores_its_cancellation_does_not_delay_the_drain(group: Group) -> None:
    end = asyncio.Event()

    async def stubborn(data: dict[str, Any]) -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    processor = await group.start(stubborn, drain=0.1)
    await group.add()
    await eventually(lambda: processor.metrics.in_flight)
    started = time.monotonic()
    await processor.stop_listening()
    assert time.monotonic() - started < TIMEOUT_SECONDS
    assert processor.has_stuck_handlers
    end.set()
    await eventually(lambda: not processor.has_stuck_handlers)


async def test_message_of_a_thread_that_outlives_the_drain_is_not_started_in_parallel(
    group: Group,
) -> None:
    end, started = threading.Event(), []

    def handle(data: dict[str, Any]) -> None:
        started.append(data)
        end.wait(10)

    processor = await group.start(handle, drain=0.1, min_idle=1, concurrency=2)
    await group.add()
    await eventually(lambda: started)
    await processor.stop_listening()
    assert processor.has_stuck_handlers
    await processor.start_listening()
    await asyncio.sleep(1.5)
    assert len(started) == 1
    end.set()
    await eventually(lambda: len(started) == 2)
    await group.wait_settled()


async def test_claimed_message_of_a_running_thread_is_not_started_in_parallel(group: Group) -> None:
    end, started = threading.Event(), []

    def handle(data: dict[str, Any]) -> None:
        started.append(data)
        end.wait(10)

    processor = await group.start(handle, min_idle=0.5, concurrency=2)
    ids = await group.add()
    await eventually(lambda: started)
    await group.claim(ids, "pod-b")
    await eventually(lambda: processor.metrics.lost_ownership)
    await group.claim(ids, "pod-b", idle_ms=60_000)
    await eventually(lambda: processor.metrics.claimed)
    assert len(started) == 1
    end.set()
    await group.wait_settled()
    assert len(started) == 2


async def test_consumer_without_pending_entries_leaves_the_group(any_group: Group) -> None:
    handler = Recorder()
    processor = await any_group.start(handler)
    await any_group.add()
    await handler.wait_until_finished(1)
    await processor.stop_listening()
    assert await any_group.consumers() == set()


async def test_consumer_with_pending_entries_stays_in_the_group(any_group: Group) -> None:
    """The message was cancelled at the end of the drain, so its outcome is unknown."""
    processor = await any_group.start(Recorder(gate=False), drain=0.1)
    await any_group.add()
    await eventually(lambda: processor.metrics.in_flight)
    await processor.stop_listening()
    assert await any_group.consumers() == {"pod-a"}
    assert await any_group.pending() == 1


async def test_entries_of_a_claim_in_progress_are_released(any_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A roll-out stops pods at the same time: entries that one pod releases are being claimed by another."""
    claimed, stopped = asyncio.Event(), asyncio.Event()
    claim_due = PendingEntries.claim_due

    async def claim_until_stopped(self: PendingEntries, count: int) -> Claimed:
        result = await claim_due(self, count)
        if result.entries:
            claimed.set()
            await stopped.wait()
        return result

    monkeypatch.setattr(PendingEntries, "claim_due", claim_until_stopped)
    await any_group.add(4)
    releasing = await any_group.start(Recorder(gate=False))
    await eventually(lambda: releasing.metrics.delivered == 4)
    processor = await any_group.start(Recorder(), "pod-b")
    releasing.force_stop()
    stopping_first = asyncio.create_task(releasing.stop_listening())
    await claimed.wait()
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor.health.readiness() == (False, "draining"))
    await asyncio.sleep(0.2)  # time in which the drain would have ended
    stopped.set()
    await asyncio.gather(stopping, stopping_first)
    owners = {entry.consumer for entry in await any_group.entries()}
    assert owners <= {POSTPONED_CONSUMER, "pod-a"}  # the running entry stays with pod-a
    assert await any_group.consumers() <= {"pod-a"}


@ON_ONE_SERVER
async def test_message_that_waits_for_a_retry_is_released_with_its_delay(any_group: Group) -> None:
    handler, peer = Recorder(fail_first_delivery(Retry("bad", after=timedelta(seconds=2)))), Recorder()
    processor = await any_group.start(handler)
    await any_group.add()
    await eventually(lambda: processor.metrics.retried)
    await processor.stop_listening()
    assert await any_group.consumers() == set()
    await any_group.start(peer, "pod-b")
    await peer.wait_until_finished(1)
    assert [message.deliveries for message in peer.received] == [2]
    await any_group.wait_settled()


async def test_rolling_update_handles_every_message_once(group: Group) -> None:
    handlers = []
    ids = await group.add(2000)

    async def start(name: str) -> Any:
        handlers.append(Recorder())
        return await group.start(handlers[-1], name, min_idle=1, concurrency=4)

    running = [await start("pod-0"), await start("pod-1")]
    for number in range(2, 12):
        ids += await group.add(200)
        await running.pop(0).stop_listening()
        running.append(await start(f"pod-{number}"))
    await eventually(lambda: sum(len(handler.finished) for handler in handlers) >= len(ids))
    await group.wait_settled()
    assert sorted(message_id for handler in handlers for message_id in handler.ids) == sorted(ids)


async def test_message_stays_pending_when_its_handler_returns_after_a_cancellation(any_group: Group) -> None:
    started = asyncio.Event()

    async def handle(_data: dict[str, Any]) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    await any_group.add()
    processor = await any_group.start(handle, drain=0.2)
    await started.wait()
    await processor.stop_listening()
    assert await any_group.pending() == 1


async def test_draining_pod_is_not_ready_after_a_successful_read(any_group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, concurrency=2)
    await any_group.add()
    await handler.wait_until_received(1)
    await any_group.wait_until_reading()
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: not processor.health.readiness()[0])
    await asyncio.sleep(0.1)
    assert processor.health.readiness() == (False, "draining")
    handler.gate.set()
    await stopping


async def test_released_entries_wake_an_idle_consumer(any_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two consumers, the peer itself checks only every two minutes."""
    monkeypatch.setattr(liveness, "CHECK_INTERVAL", timedelta(minutes=1))
    handler, peer = Recorder(gate=False), Recorder()
    _, *unstarted = await any_group.add(4)
    processor = await any_group.start(handler, drain=60)
    await handler.wait_until_received(1)
    await any_group.start(peer, "pod-b", poll=60)
    await eventually(lambda: _blocked(any_group))
    stopping = asyncio.create_task(processor.stop_listening())
    await peer.wait_until_finished(3)
    handler.gate.set()
    await stopping
    assert peer.ids == unstarted


async def _blocked(group: Group) -> bool:
    return bool((await group.client.info("clients"))["blocked_clients"])
