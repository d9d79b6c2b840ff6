"""Ownership of entries:

dead consumers lose their entries, live ones keep them, and a consumer that has lost an entry stops its handler.
"""

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from streamconsumer.processor import Retry
from streamconsumer.processor.consumer.leases import Leases
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder


async def test_restarted_consumer_first_handles_its_own_pending_entries(any_group: Group) -> None:
    await any_group.create_group()
    pending_ids = await any_group.add(450)
    assert await any_group.read_as("pod-a", 450) == pending_ids
    new = await any_group.add(5)
    handler = Recorder()
    await any_group.start(handler)
    await handler.wait_until_finished(455)
    await any_group.wait_settled()
    assert handler.ids == pending_ids + new
    assert {message.deliveries for message in handler.received} == {1, 2}
    assert {message.deliveries for message in handler.received[:450]} == {2}


async def test_entries_of_a_dead_consumer_are_claimed_after_min_idle(any_group: Group) -> None:
    await any_group.create_group()
    ids = await any_group.add(3)
    await any_group.read_as("dead")
    handler = Recorder()
    processor = await any_group.start(handler, min_idle=1)
    await any_group.wait_until_reading()
    assert not handler.received
    await handler.wait_until_finished(3)
    await any_group.wait_settled()
    assert handler.ids == ids
    assert [message.deliveries for message in handler.received] == [2, 2, 2]
    assert processor.metrics.claimed == 3


async def test_many_entries_of_a_dead_consumer_are_claimed_as_fast_as_they_are_handled(
    group: Group,
) -> None:
    await group.create_group()
    ids = await group.add(500)
    await group.read_as("dead", 500)
    handler = Recorder()
    await group.start(handler, min_idle=1)
    await handler.wait_until_finished(500)
    await group.wait_settled()
    assert handler.attempt_counts == dict.fromkeys(ids, 1)


async def test_entry_of_a_dead_consumer_is_claimed_behind_many_of_live_ones(group: Group) -> None:
    """XAUTOCLAIM scans ten entries for each one that it may claim."""
    await group.create_group()
    await group.add(400)
    live = await group.read_as("live", 400)
    [orphan] = await group.add()
    await group.read_as("dead")
    await group.claim([orphan], "dead", idle_ms=60_000)
    handler = Recorder()
    await group.start(handler, min_idle=8, batch=1)
    await handler.wait_until_finished(1)
    assert handler.ids == [orphan]
    assert len(live) == 400


@ON_ONE_SERVER
async def test_live_process_keeps_the_message_of_a_long_handler(any_group: Group) -> None:
    handler, peer = Recorder(gate=False), Recorder()
    ids = await any_group.add(3)
    await any_group.start(handler, min_idle=1.5)
    await handler.wait_until_received(1)
    peers = await any_group.start(peer, "pod-b", min_idle=1.5)
    await asyncio.sleep(2 * 1.5)
    assert not peer.received
    handler.gate.set()
    await handler.wait_until_finished(3)
    await any_group.wait_settled()
    assert handler.ids == ids
    assert peers.metrics.claimed == 0


async def test_consumer_cancels_the_handler_of_a_lost_message_and_does_not_acknowledge(
    any_group: Group,
) -> None:
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, min_idle=1)
    [taken] = await any_group.add()
    await handler.wait_until_received(1)
    await any_group.claim([taken], "pod-b")
    await eventually(lambda: handler.cancelled == [taken])
    await any_group.add()
    handler.gate.set()
    await handler.wait_until_finished(1)
    await processor.stop_listening()
    assert [(each.message_id, each.consumer) for each in await any_group.entries()] == [(taken, "pod-b")]
    assert processor.metrics.lost_ownership == 1
    assert processor.metrics.failed == 0


async def test_message_claimed_by_a_peer_before_its_start_is_not_started(group: Group) -> None:
    handler = Recorder(gate=False)
    first, taken, last = await group.add(3)
    await group.start(handler, min_idle=1)
    await handler.wait_until_received(1)
    await group.claim([taken], "pod-b")
    await eventually(lambda: group.processors[0].metrics.lost_ownership == 1)
    handler.gate.set()
    await handler.wait_until_finished(2)
    assert handler.ids == [first, last]
    await eventually(group.pending)
    assert [(each.message_id, each.consumer) for each in await group.entries()] == [(taken, "pod-b")]


async def test_message_trimmed_while_it_runs_is_finished(any_group: Group) -> None:
    """Producers trim by length. An entry that is no longer pending need not belong to another consumer."""
    handler = Recorder(gate=False)
    processor = await any_group.start(handler, min_idle=0.5)
    [trimmed] = await any_group.add()
    await handler.wait_until_received(1)
    await any_group.client.xtrim(STREAM, maxlen=0)
    await asyncio.sleep(3 * 0.5)
    handler.gate.set()
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert handler.ids == [trimmed]
    assert processor.metrics.lost_ownership == 0


async def test_failed_entry_that_was_trimmed_is_counted_and_acknowledged(any_group: Group) -> None:
    handler = Recorder(lambda _: Retry("bad", after=timedelta(seconds=1)))
    processor = await any_group.start(handler, min_idle=0.5, poll=0.3)
    await any_group.add()
    await handler.wait_until_received(1)
    await any_group.client.xtrim(STREAM, maxlen=0)
    await any_group.wait_settled()
    await eventually(lambda: processor.metrics.lost_to_trimming == 1)
    assert len(handler.received) == 1


async def test_entries_trimmed_while_their_consumer_is_stopped_are_counted_and_acknowledged(
    any_group: Group,
) -> None:
    await any_group.create_group()
    await any_group.add(250)
    await any_group.read_as("pod-a", 250)
    await any_group.client.xtrim(STREAM, maxlen=40, approximate=False)
    handler = Recorder()
    processor = await any_group.start(handler)
    await handler.wait_until_finished(40)
    await any_group.wait_settled()
    assert processor.metrics.lost_to_trimming == 210
    assert len(handler.received) == 40


async def test_two_processors_share_the_work(any_group: Group) -> None:
    first, second = Recorder(), Recorder()
    await any_group.start(first, "pod-a", batch=5)
    await any_group.start(second, "pod-b", batch=5)
    await any_group.wait_until_reading()
    ids: list[str] = []
    for _ in range(20):
        ids += await any_group.add(20)
    await eventually(lambda: len(first.finished) + len(second.finished) >= 400)
    await any_group.wait_settled()
    assert sorted(first.ids + second.ids) == sorted(ids)
    assert min(len(first.ids), len(second.ids)) > 50


async def test_delivery_counts_are_correct_with_many_pending_entries(group: Group) -> None:
    await group.create_group()
    await group.add(900)
    await group.read_as("dead", 900)
    await group.client.xclaim(
        STREAM, GROUP, "dead", 0, [each.message_id for each in await group.entries()], retrycount=6
    )
    handler = Recorder()
    await group.start(handler, min_idle=0.5, batch=1000)
    await handler.wait_until_finished(900)
    assert {message.deliveries for message in handler.received} == {7}


@pytest.mark.parametrize("is_reply_lost", [False, True], ids=["reply", "lost reply"])
async def test_renewal_does_not_restore_an_entry_whose_acknowledgement_overtakes_it(
    any_group: Group, monkeypatch: pytest.MonkeyPatch, is_reply_lost: bool
) -> None:
    """The consumer sends the renewal while the message runs; Redis receives it after the acknowledgement."""
    renewal_sent, may_continue, is_renewed = threading.Event(), threading.Event(), threading.Event()
    renew = Leases.renew

    async def slow(self: Leases, message_ids: Sequence[str]) -> list[str]:
        if not message_ids:
            return []
        renewal_sent.set()
        await asyncio.to_thread(may_continue.wait, TIMEOUT_SECONDS)
        lost = await renew(self, message_ids)
        is_renewed.set()
        if is_reply_lost:
            raise RedisConnectionError("the reply is lost")
        return lost

    monkeypatch.setattr(Leases, "renew", slow)
    handler = Recorder(gate=False)
    processor = await any_group.start(handler)
    await any_group.add()
    await handler.wait_until_received(1)
    await eventually(renewal_sent.is_set)
    handler.gate.set()
    await eventually(lambda: processor.metrics.acknowledged)
    assert await any_group.pending() == 0
    may_continue.set()
    await eventually(is_renewed.is_set)
    await any_group.wait_settled()
    await processor.stop_listening()
    assert await any_group.pending() == 0
    assert len(handler.received) == 1
