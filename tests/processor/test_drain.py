"""Stopping: what runs is finished, what has not begun is handed back, and nobody waits longer than agreed."""

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor import Retry
from streamconsumer.processor.stream import watch
from streamconsumer.server.keys import POSTPONED
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import PATIENCE_SECONDS, eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder, once


async def test_what_runs_is_finished_and_acknowledged(any_group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, concurrency=5)
    ids = await any_group.add(5)
    await handler.has_seen(5)
    stopping = asyncio.create_task(processor.stop_listening())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    assert processor.health.readiness() == (False, "draining")
    handler.gate.set()
    await stopping
    assert sorted(handler.finished) == sorted(ids)
    assert await any_group.pending() == 0


async def test_what_has_not_begun_is_handed_back_at_once(any_group: Group) -> None:
    """Whoever looks next takes it, also while the drain goes on. The delivery that came to nothing is not counted."""
    handler = Recorder(gate=False)
    running, *unbegun = await any_group.add(8)
    processor = await any_group.start(handler, drain=60)
    await handler.has_seen(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor.metrics.released == 7)
    await asyncio.sleep(1)  # time for a renewal
    handed_back = [each for each in await any_group.entries() if each.message_id != running]
    assert [each.message_id for each in handed_back] == unbegun
    assert {each.consumer for each in handed_back} == {POSTPONED}
    assert {each.deliveries for each in handed_back} == {0}

    peer = Recorder()
    await any_group.start(peer, "pod-b")
    await peer.has_finished(7)
    assert peer.ids == unbegun
    assert {message.deliveries for message in peer.seen} == {1}
    handler.gate.set()
    await stopping
    await any_group.settled()
    assert handler.ids == [running]


async def test_a_drain_ends_at_its_time_out_with_the_rest_pending(any_group: Group) -> None:
    handler = Recorder(gate=False)
    [message_id] = await any_group.add()
    processor = await any_group.start(handler, drain=0.3)
    await handler.has_seen(1)
    begun = time.monotonic()
    await processor.stop_listening()
    assert 0.25 < time.monotonic() - begun < PATIENCE_SECONDS
    assert handler.cancelled == [message_id]
    assert [each.message_id for each in await any_group.entries()] == [message_id]
    assert processor.metrics.failed == 0


async def test_a_hurried_drain_ends_now(group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await group.start(handler, drain=60)
    await group.add()
    await handler.has_seen(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await asyncio.sleep(0.05)
    processor.hurry()
    await asyncio.wait_for(stopping, PATIENCE_SECONDS)
    assert await group.pending() == 1


async def test_a_handler_that_refuses_to_be_cancelled_does_not_hold_the_drain_up(group: Group) -> None:
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
    begun = time.monotonic()
    await processor.stop_listening()
    assert time.monotonic() - begun < PATIENCE_SECONDS
    assert processor.has_stuck_handlers
    end.set()
    await eventually(lambda: not processor.has_stuck_handlers)


async def test_a_thread_that_goes_on_after_the_drain_is_told_of_and_not_started_again_beside_itself(
    group: Group,
) -> None:
    end, begun = threading.Event(), []

    def handle(data: dict[str, Any]) -> None:
        begun.append(data)
        end.wait(10)

    processor = await group.start(handle, drain=0.1, min_idle=1, concurrency=2)
    await group.add()
    await eventually(lambda: begun)
    await processor.stop_listening()
    assert processor.has_stuck_handlers
    await processor.start_listening()
    await asyncio.sleep(1.5)
    assert len(begun) == 1
    end.set()
    await eventually(lambda: len(begun) == 2)
    await group.settled()


async def test_a_plain_function_that_lost_its_message_is_not_started_again_beside_itself(group: Group) -> None:
    end, begun = threading.Event(), []

    def handle(data: dict[str, Any]) -> None:
        begun.append(data)
        end.wait(10)

    processor = await group.start(handle, min_idle=0.5, concurrency=2)
    ids = await group.add()
    await eventually(lambda: begun)
    await group.take(ids, "pod-b")
    await eventually(lambda: processor.metrics.lost_ownership)
    await group.take(ids, "pod-b", idle_ms=60_000)
    await eventually(lambda: processor.metrics.claimed)
    assert len(begun) == 1
    end.set()
    await group.settled()
    assert len(begun) == 2


async def test_a_consumer_leaves_the_group_when_nothing_is_pending_here(any_group: Group) -> None:
    handler = Recorder()
    processor = await any_group.start(handler)
    await any_group.add()
    await handler.has_finished(1)
    await processor.stop_listening()
    assert await any_group.consumers() == set()


async def test_a_consumer_with_pending_entries_stays_in_the_group(any_group: Group) -> None:
    """The message was cancelled at the end of the drain: nobody knows how far it came."""
    processor = await any_group.start(Recorder(gate=False), drain=0.1)
    await any_group.add()
    await eventually(lambda: processor.metrics.in_flight)
    await processor.stop_listening()
    assert await any_group.consumers() == {"pod-a"}
    assert await any_group.pending() == 1


@ON_ONE_SERVER
async def test_what_waits_to_be_tried_again_is_handed_on_with_its_time(any_group: Group) -> None:
    handler, peer = Recorder(once(Retry("bad", after=timedelta(seconds=2)))), Recorder()
    processor = await any_group.start(handler)
    await any_group.add()
    await eventually(lambda: processor.metrics.retried)
    await processor.stop_listening()
    assert await any_group.consumers() == set()
    await any_group.start(peer, "pod-b")
    await peer.has_finished(1)
    assert [message.deliveries for message in peer.seen] == [2]
    await any_group.settled()


async def test_a_rolling_update_loses_nothing_and_handles_nothing_twice(group: Group) -> None:
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
    await group.settled()
    assert sorted(message_id for handler in handlers for message_id in handler.ids) == sorted(ids)


async def test_a_handler_that_swallows_its_cancellation_has_not_handled_its_message(any_group: Group) -> None:
    begun = asyncio.Event()

    async def handle(_data: dict[str, Any]) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    await any_group.add()
    processor = await any_group.start(handle, drain=0.2)
    await begun.wait()
    await processor.stop_listening()
    assert await any_group.pending() == 1


async def test_a_pod_that_drains_is_not_ready_although_its_read_ended_well(any_group: Group) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, concurrency=2)
    await any_group.add()
    await handler.has_seen(1)
    await any_group.is_reading()
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: not processor.health.readiness()[0])
    await asyncio.sleep(0.1)
    assert processor.health.readiness() == (False, "draining")
    handler.gate.set()
    await stopping


async def test_what_is_handed_back_wakes_a_peer_that_waits(any_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own turn to look comes every two minutes."""
    monkeypatch.setattr(watch, "TURN", timedelta(minutes=1))
    handler, peer = Recorder(gate=False), Recorder()
    _, *unbegun = await any_group.add(4)
    processor = await any_group.start(handler, drain=60)
    await handler.has_seen(1)
    await any_group.start(peer, "pod-b", poll=60)
    await eventually(lambda: _blocked(any_group))
    stopping = asyncio.create_task(processor.stop_listening())
    await peer.has_finished(3)
    handler.gate.set()
    await stopping
    assert peer.ids == unbegun


async def _blocked(group: Group) -> bool:
    return bool((await group.client.info("clients"))["blocked_clients"])
