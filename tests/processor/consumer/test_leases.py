"""Ownership of entries:

dead consumers lose their entries, live ones keep them, and a consumer that has lost an entry stops its handler.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from streamconsumer.processor import Retry
from streamconsumer.processor.consumer.leases import PAGE_SIZE, RENEWAL_PAGE_SIZE, Leases
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.outcome import Outcome
from streamconsumer.redis_client.replies import UnexpectedReply
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


# -- the commands of one consumer --------------------------------------------------------------------------------------

SCHEDULE = group_key(STREAM, GROUP, "postponed")


@pytest.fixture
async def leases(group: Group) -> Leases:
    """Return the leases of pod-a in a group that exists."""
    await group.create_group()
    return Leases(group.manager().execute, STREAM, GROUP, "pod-a")


async def delivered(group: Group, count: int, consumer: str = "pod-a", *, idle_ms: int = 60_000) -> list[str]:
    """Add entries that are pending with a consumer, and idle. Returns their ids."""
    ids = await group.add(count)
    await group.read_as(consumer, count)
    await group.claim(ids, consumer, idle_ms=idle_ms)
    return ids


async def test_leases_of_all_pages_are_renewed_and_lost_ones_are_returned(leases: Leases, group: Group) -> None:
    ids = await delivered(group, 2 * RENEWAL_PAGE_SIZE + 1)
    lost = [ids[0], ids[RENEWAL_PAGE_SIZE], ids[-1]]
    await group.claim(lost, "pod-b", idle_ms=60_000)
    assert await leases.renew(ids[::-1]) == lost
    assert [each.message_id for each in await group.entries() if each.idle_ms >= 60_000] == lost
    assert await leases.renew([]) == []


async def test_activity_without_entries_resets_only_the_idle_time_of_the_consumer(leases: Leases, group: Group) -> None:
    await delivered(group, 1)
    await group.add(1)
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await leases.show_activity()
    [consumer] = await group.client.xinfo_consumers(STREAM, GROUP)
    assert (consumer["name"], consumer["pending"]) == ("pod-a", 1)
    assert consumer["idle"] <= 1000 * (time.monotonic() - began) + 10
    [entry] = await group.entries()
    assert entry.idle_ms >= 60_000


async def test_attempt_starts_only_with_a_lease(leases: Leases, group: Group) -> None:
    mine, of_peer, trimmed = await delivered(group, 3)
    await group.claim([of_peer], "pod-b")
    await group.client.xdel(STREAM, trimmed)
    outcomes = [await leases.start_attempt(message_id, 7) for message_id in (mine, of_peer, trimmed)]
    assert outcomes == [Outcome.DONE, Outcome.LOST, Outcome.TRIMMED]
    assert [(each.message_id, each.deliveries) for each in await group.entries()] == [(mine, 7), (of_peer, 1)]


async def test_delivery_counts_of_all_pages_are_stored(leases: Leases, group: Group) -> None:
    ids = await delivered(group, PAGE_SIZE + 1)
    await leases.set_delivery_counts([(message_id, number) for number, message_id in enumerate(ids, 1)])
    assert [each.deliveries for each in await group.entries()] == [*range(1, PAGE_SIZE + 2)]


async def test_entries_of_all_pages_are_postponed(leases: Leases, group: Group) -> None:
    ids = await delivered(group, PAGE_SIZE + 2)
    lost = ids[-1]
    await group.claim([lost], "pod-b")
    delays = [timedelta(seconds=number) for number in range(len(ids))]
    outcomes = await leases.postpone([(each, 5, delay) for each, delay in zip(ids, delays, strict=True)])
    assert outcomes == [Outcome.DONE] * (len(ids) - 1) + [Outcome.LOST]
    entries = await group.entries()
    assert {(each.consumer, each.deliveries) for each in entries if each.message_id != lost} == {
        (POSTPONED_CONSUMER, 5)
    }
    schedule: Any = await group.client.zrange(SCHEDULE, 0, -1, withscores=True)
    due = dict(schedule)
    assert due[ids[-2]] - due[ids[0]] == pytest.approx((len(ids) - 2) * 1000, abs=20_000)


async def test_schedule_is_repaired_page_by_page(leases: Leases, group: Group) -> None:
    ids = await delivered(group, 310, POSTPONED_CONSUMER)
    await delivered(group, 1, POSTPONED_CONSUMER, idle_ms=0)
    after = await leases.repair_schedule(timedelta(seconds=30))
    assert after == ids[299]
    assert await leases.repair_schedule(timedelta(seconds=30), after) == ""
    assert {*await group.client.zrange(SCHEDULE, 0, -1)} == {*ids}


async def test_consumer_is_deleted_unless_it_has_pending_entries(leases: Leases, group: Group) -> None:
    await leases.register()
    await group.client.xgroup_createconsumer(STREAM, GROUP, "pod-b")
    await delivered(group, 1, "pod-c")
    assert not await leases.delete_consumer("pod-c")
    assert await leases.delete_consumer("pod-b")
    assert await group.consumers() == {"pod-a", "pod-c"}
    assert await leases.delete_consumer()
    assert await group.consumers() == {"pod-c"}


async def test_server_out_of_memory_does_not_prevent_the_start(leases: Leases, group: Group) -> None:
    await group.client.config_set("maxmemory", 1)
    await leases.register()
    assert not await group.consumers()


async def test_odd_reply_to_a_deletion_is_an_error() -> None:
    async def answer(*_command: Any) -> Any:
        return b"yes"

    with pytest.raises(UnexpectedReply):
        await Leases(answer, STREAM, GROUP, "pod-a").delete_consumer()
