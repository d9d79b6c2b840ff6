"""Whose message it is: dead consumers lose theirs, live ones keep them, and who has lost one stops."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor import Retry, StreamManager
from streamconsumer.processor.stream import scripts
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder


async def test_a_restarted_consumer_first_finishes_what_it_had_begun(any_group: Group) -> None:
    await any_group.create()
    begun = await any_group.add(450)
    assert await any_group.read_as("pod-a", 450) == begun
    new = await any_group.add(5)
    handler = Recorder()
    await any_group.start(handler)
    await handler.has_finished(455)
    await any_group.settled()
    assert handler.ids == begun + new
    assert {message.deliveries for message in handler.seen} == {1, 2}
    assert {message.deliveries for message in handler.seen[:450]} == {2}


async def test_the_entries_of_a_dead_consumer_are_taken_over_after_min_idle(any_group: Group) -> None:
    await any_group.create()
    ids = await any_group.add(3)
    await any_group.read_as("dead")
    handler = Recorder()
    processor = await any_group.start(handler, min_idle=1)
    await any_group.is_reading()
    assert not handler.seen
    await handler.has_finished(3)
    await any_group.settled()
    assert handler.ids == ids
    assert [message.deliveries for message in handler.seen] == [2, 2, 2]
    assert processor.metrics.claimed == 3


async def test_many_entries_of_a_dead_consumer_are_taken_over_as_fast_as_they_can_be_handled(
    group: Group,
) -> None:
    await group.create()
    ids = await group.add(500)
    await group.read_as("dead", 500)
    handler = Recorder()
    await group.start(handler, min_idle=1)
    await handler.has_finished(500)
    await group.settled()
    assert handler.times == dict.fromkeys(ids, 1)


async def test_a_dead_consumers_entry_behind_many_of_live_ones_is_found(group: Group) -> None:
    """XAUTOCLAIM looks at ten entries for each one that it may claim."""
    await group.create()
    await group.add(400)
    live = await group.read_as("live", 400)
    [orphan] = await group.add()
    await group.read_as("dead")
    await group.take([orphan], "dead", idle_ms=60_000)
    handler = Recorder()
    await group.start(handler, min_idle=4, batch=1)
    await handler.has_finished(1)
    assert handler.ids == [orphan]
    assert len(live) == 400


@ON_ONE_SERVER
async def test_a_long_handler_of_a_live_process_keeps_its_message(any_group: Group) -> None:
    handler, peer = Recorder(gate=False), Recorder()
    ids = await any_group.add(3)
    await any_group.start(handler, min_idle=1.5)
    await handler.has_seen(1)
    peers = await any_group.start(peer, "pod-b", min_idle=1.5)
    await asyncio.sleep(2 * 1.5)
    assert not peer.seen
    handler.gate.set()
    await handler.has_finished(3)
    await any_group.settled()
    assert handler.ids == ids
    assert peers.metrics.claimed == 0


async def test_a_consumer_that_lost_a_message_cancels_its_handler_and_does_not_acknowledge(
    any_group: Group,
) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, min_idle=1)
    [taken] = await any_group.add()
    await handler.has_seen(1)
    await any_group.take([taken], "pod-b")
    await eventually(lambda: handler.cancelled == [taken])
    await any_group.add()
    handler.gate.set()
    await handler.has_finished(1)
    await processor.stop_listening()
    assert [(each.message_id, each.consumer) for each in await any_group.entries()] == [(taken, "pod-b")]
    assert processor.metrics.lost_ownership == 1
    assert processor.metrics.failed == 0


async def test_a_message_that_was_taken_before_it_began_is_not_begun(group: Group) -> None:
    handler = Recorder(gate=False)
    first, taken, last = await group.add(3)
    await group.start(handler, min_idle=1)
    await handler.has_seen(1)
    await group.take([taken], "pod-b")
    await eventually(lambda: group.processors[0].metrics.lost_ownership == 1)
    handler.gate.set()
    await handler.has_finished(2)
    assert handler.ids == [first, last]
    await eventually(group.pending)
    assert [(each.message_id, each.consumer) for each in await group.entries()] == [(taken, "pod-b")]


async def test_a_message_trimmed_from_the_stream_while_it_runs_is_finished(any_group: Group) -> None:
    """Producers trim by length. That nobody holds the entry any more does not mean that somebody else does."""
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, min_idle=0.5)
    [trimmed] = await any_group.add()
    await handler.has_seen(1)
    await any_group.client.xtrim(STREAM, maxlen=0)
    await asyncio.sleep(3 * 0.5)
    handler.gate.set()
    await handler.has_finished(1)
    await any_group.settled()
    assert handler.ids == [trimmed]
    assert processor.metrics.lost_ownership == 0


async def test_a_failed_entry_that_was_trimmed_is_counted_and_settled(any_group: Group) -> None:
    handler = Recorder(lambda _: Retry("bad", after=timedelta(seconds=1)))
    processor = await any_group.start(handler, min_idle=0.5, poll=0.3)
    await any_group.add()
    await handler.has_seen(1)
    await any_group.client.xtrim(STREAM, maxlen=0)
    await any_group.settled()
    await eventually(lambda: processor.metrics.lost_to_trimming == 1)
    assert len(handler.seen) == 1


async def test_entries_trimmed_while_their_consumer_was_away_are_counted_and_settled(
    any_group: Group,
) -> None:
    await any_group.create()
    await any_group.add(250)
    await any_group.read_as("pod-a", 250)
    await any_group.client.xtrim(STREAM, maxlen=40, approximate=False)
    handler = Recorder()
    processor = await any_group.start(handler)
    await handler.has_finished(40)
    await any_group.settled()
    assert processor.metrics.lost_to_trimming == 210
    assert len(handler.seen) == 40


async def test_two_processors_share_the_work(any_group: Group) -> None:
    first, second = Recorder(), Recorder()
    await any_group.start(first, "pod-a", batch=5)
    await any_group.start(second, "pod-b", batch=5)
    await any_group.is_reading()
    ids: list[str] = []
    for _ in range(20):
        ids += await any_group.add(20)
    await eventually(lambda: len(first.finished) + len(second.finished) >= 400)
    await any_group.settled()
    assert sorted(first.ids + second.ids) == sorted(ids)
    assert min(len(first.ids), len(second.ids)) > 50


async def test_deliveries_are_told_right_however_many_entries_are_pending_here(group: Group) -> None:
    await group.create()
    await group.add(900)
    await group.read_as("dead", 900)
    await group.client.xclaim(
        STREAM, GROUP, "dead", 0, [each.message_id for each in await group.entries()], retrycount=6
    )
    handler = Recorder()
    await group.start(handler, min_idle=0.5, batch=1000)
    await handler.has_finished(900)
    assert {message.deliveries for message in handler.seen} == {7}


async def test_a_renewal_that_meets_an_acknowledgement_on_its_way_does_not_bring_the_entry_back(
    any_group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal was asked for while the message ran; Redis hears of it after the acknowledgement."""
    asked, may_go, ask = threading.Event(), threading.Event(), StreamManager.ask

    async def slow(self: StreamManager, *command: Any) -> Any:
        if command[:2] == ("EVAL", scripts.RENEW):
            asked.set()
            await asyncio.to_thread(may_go.wait)
        return await ask(self, *command)

    monkeypatch.setattr(StreamManager, "ask", slow)
    handler = Recorder(gate=False)
    processor = await any_group.start(handler)
    await any_group.add()
    await handler.has_seen(1)
    await eventually(asked.is_set)
    handler.gate.set()
    await eventually(lambda: processor.metrics.acknowledged)
    assert await any_group.pending() == 0
    may_go.set()
    await processor.stop_listening()
    assert await any_group.pending() == 0
    assert len(handler.seen) == 1
