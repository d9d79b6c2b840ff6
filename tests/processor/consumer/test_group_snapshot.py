"""A group that is destroyed while it is read is recreated, and no entry that Redis still has is lost."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.model.processor_settings import Breaker, Delivery
from streamconsumer.processor import Message, Retry, current_message
from streamconsumer.processor.consumer.group_snapshot import GroupSnapshot, NewerFormat
from streamconsumer.processor.consumer.large_entries import BoundedReads, Claimed
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.memory_limit import memory_limits
from streamconsumer.processor.consumer.pending_entries import PendingEntries
from streamconsumer.processor.consumer.read_size import ReadSize
from streamconsumer.processor.health import Health
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import UnexpectedReply
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder, fail_first_delivery

WAYS = {
    "XGROUP DESTROY": ("XGROUP", "DESTROY", STREAM, GROUP),
    "DEL": ("DEL", STREAM),
    "FLUSHALL": ("FLUSHALL",),
}


async def claim_due(group: Group, consumer: str) -> Claimed:
    """Claim postponed entries that are due."""
    manager, limits = group.manager(), memory_limits(group.delivery.max_entry_bytes)
    reads = BoundedReads(manager, limits, ReadSize(limits))
    try:
        return await PendingEntries(manager.execute, reads, STREAM, GROUP, consumer).claim_due(10)
    finally:
        await reads.connection.close()


by_every_way = pytest.mark.parametrize("way", list(WAYS))


@ON_ONE_SERVER
@by_every_way
async def test_group_is_recreated_when_it_is_destroyed_during_a_blocked_read(any_group: Group, way: str) -> None:
    handler = Recorder()
    processor = await any_group.start(handler, poll=1)
    await any_group.add(3)
    await handler.wait_until_finished(3)
    await any_group.wait_settled()
    await any_group.wait_until_reading()
    await eventually(lambda: _snapshot_saved(any_group, handler.ids[-1]))
    await any_group.client.execute_command(*WAYS[way])  # type: ignore[no-untyped-call] # ships no types for it
    later = await any_group.add(3)
    await handler.wait_until_finished(6)
    await any_group.wait_settled()
    assert handler.ids[3:] == later, "no message acknowledged in the snapshot is handled again"
    assert processor.metrics.groups_recreated == 1
    assert processor.metrics.redis_errors == 0


@by_every_way
async def test_group_is_recreated_when_it_is_destroyed_while_a_message_is_handled(any_group: Group, way: str) -> None:
    handler = Recorder(gate=False)
    await any_group.start(handler, poll=1)
    [first] = await any_group.add()
    await handler.wait_until_received(1)
    await any_group.client.execute_command(*WAYS[way])  # type: ignore[no-untyped-call] # ships no types for it
    handler.gate.set()
    await asyncio.sleep(0.002)  # a new stream in the same millisecond would create the same id
    later = await any_group.add(3)
    await eventually(lambda: set(handler.finished) >= set(later))
    await any_group.wait_settled()
    assert [each for each in handler.ids if each in later] == later
    assert handler.ids.count(first) <= 2, "an acknowledgement lost with the group costs one more attempt"


async def test_entries_in_flight_stay_pending_when_the_group_is_destroyed(any_group: Group) -> None:
    handler = Recorder(gate=False)
    ids = await any_group.add(5)
    processor = await any_group.start(handler, concurrency=8, min_idle=1)
    await handler.wait_until_received(5)
    await any_group.client.xgroup_destroy(STREAM, GROUP)

    async def pending_again() -> bool:
        return await any_group.group_exists() and [each.message_id for each in await any_group.entries()] == ids

    await eventually(pending_again)
    await asyncio.sleep(1.5)
    handler.gate.set()
    await handler.wait_until_finished(5)
    await any_group.wait_settled()
    assert handler.ids == ids
    assert processor.metrics.lost_ownership == 0


async def test_failed_message_is_retried_when_the_group_is_destroyed(any_group: Group) -> None:
    """The entry is no longer pending in Redis: only this process knows it."""
    handler = Recorder(fail_first_delivery(Retry("not yet", after=timedelta(seconds=1))))
    bad, *_ = await any_group.add(1)
    await any_group.start(handler, min_idle=1)
    await handler.wait_until_received(1)
    await any_group.wait_until_reading()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert handler.finished == [bad]


async def test_each_consumer_keeps_its_entries_when_the_group_is_destroyed(any_group: Group) -> None:
    """The first consumer recreates the group at its own position. Other consumers know earlier or later positions."""
    later = timedelta(seconds=1.5)
    any_group.delivery = Delivery(breaker=Breaker(failures=0))
    first, second = (
        Recorder(fail_first_delivery(Retry("a", after=later))),
        Recorder(fail_first_delivery(Retry("b", after=later))),
    )
    for handler, name in ((first, "pod-a"), (second, "pod-b")):
        await any_group.start(handler, name, min_idle=1, poll=0.5)
        await any_group.wait_until_reading()
    ids = await any_group.add(1)
    await eventually(lambda: len(first.received) + len(second.received) == 1)
    ids += await any_group.add(40)
    await eventually(lambda: len(first.received) + len(second.received) == 41)
    await any_group.wait_until_reading()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await eventually(lambda: sorted(first.finished + second.finished) == sorted(ids))
    await any_group.wait_settled()


async def test_recreated_group_does_not_start_at_the_dollar(any_group: Group) -> None:
    handler = Recorder()
    await any_group.add(3)
    await any_group.start(handler, start_from="$", poll=1)
    await any_group.wait_until_reading()
    async with any_group.client.pipeline(transaction=True) as together:
        together.xgroup_destroy(STREAM, GROUP)
        together.xadd(STREAM, {"n": "after"})
        await together.execute()
    await handler.wait_until_finished(1)
    assert [message.data for message in handler.received] == [{"n": "after"}]


async def test_restarted_consumer_knows_the_position_before_its_first_read(group: Group) -> None:
    await group.create_group()
    await group.add(50)
    for message_id in await group.read_as("before", 50):
        await group.client.xack(STREAM, GROUP, message_id)
    handler = Recorder()
    await group.start(handler)
    await group.wait_until_reading()
    await group.client.xgroup_destroy(STREAM, GROUP)
    later = await group.add(2)
    await handler.wait_until_finished(2)
    assert handler.ids == later


async def test_processor_follows_a_stream_that_is_flushed_repeatedly_under_load(group: Group) -> None:
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        handled.append(current_message().message_id)
        await asyncio.sleep(0.001)

    await group.start(handle, concurrency=3)
    for _ in range(10):
        await group.add(30)
        await asyncio.sleep(0.02)
        await group.client.flushall()
    last = await group.add(30)
    await eventually(lambda: set(handled) >= set(last))
    await group.wait_settled()


async def test_message_in_flight_is_kept_when_a_peer_recreates_the_group(any_group: Group) -> None:
    busy, idle = Recorder(gate=False), Recorder()
    [running] = await any_group.add()
    await any_group.start(busy, min_idle=3)
    await busy.wait_until_received(1)
    await any_group.start(idle, "pod-b", poll=0.2, min_idle=3)
    [beyond] = await any_group.add()
    await idle.wait_until_finished(1)
    await eventually(lambda: _snapshot_saved(any_group, beyond, running))
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await eventually(any_group.group_exists)  # the idle consumer recreated it, after the position of the busy one
    await asyncio.sleep(1)  # several renewals
    assert not busy.cancelled
    busy.gate.set()
    await busy.wait_until_finished(1)
    await any_group.wait_settled()
    assert (busy.ids, idle.ids) == ([running], [beyond])


async def test_failed_message_is_retried_when_a_peer_recreates_the_group(any_group: Group) -> None:
    def first_time(message: Message) -> BaseException | None:
        return (
            Retry("not yet", after=timedelta(seconds=1))
            if message.deliveries == 1 and message.data["n"] == "0"
            else None
        )

    failing, idle = Recorder(first_time), Recorder(gate=False)
    [failed] = await any_group.add()
    await any_group.start(failing, min_idle=2)
    await failing.wait_until_received(1)
    await any_group.start(idle, "pod-b", poll=0.2, min_idle=60)
    async with any_group.client.pipeline(transaction=True) as together:
        together.xgroup_destroy(STREAM, GROUP)
        together.xgroup_create(STREAM, GROUP, "$")
        await together.execute()
    await failing.wait_until_received(2)
    assert failing.ids == [failed, failed]
    assert not idle.received


async def test_entries_of_a_dead_consumer_survive_the_loss_of_the_group(any_group: Group) -> None:
    """Two faults at the same time: only the snapshot still contains the entries."""
    await any_group.create_group()
    ids = await any_group.add(3)
    await any_group.read_as("dead", 3)
    handler = Recorder()
    await any_group.start(handler, "pod-b", poll=1)
    await any_group.wait_until_reading()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await handler.wait_until_finished(3)
    await any_group.wait_settled()
    assert sorted(handler.ids) == ids


async def test_postponed_entries_of_a_lost_reply_survive_the_loss_of_the_group(any_group: Group) -> None:
    await any_group.create_group()
    [lost] = await any_group.add()
    await any_group.read_as("dead")
    dead = Leases(any_group.manager().execute, STREAM, GROUP, "dead")
    await dead.postpone([(lost, 1, timedelta(0))])
    [taken] = (await claim_due(any_group, "dead")).entries
    assert taken.message_id == lost
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    handler = Recorder()
    await any_group.start(handler, start_from="$")
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert handler.ids == [lost]


async def test_group_continues_at_its_position_when_it_is_destroyed_without_consumers(any_group: Group) -> None:
    handler, peer = Recorder(), Recorder()
    processor = await any_group.start(handler)
    await any_group.add(5)
    await handler.wait_until_finished(5)
    await any_group.wait_settled()
    await eventually(lambda: _snapshot_saved(any_group, handler.ids[-1]))
    await processor.stop_listening()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    later = await any_group.add(2)
    await any_group.start(peer, "pod-b")
    await peer.wait_until_finished(2)
    await any_group.wait_settled()
    assert peer.ids == later


@pytest.mark.parametrize("start_from", ["$", "5-5"])
async def test_stream_recreated_without_consumers_is_read_from_its_first_entry(
    any_group: Group, start_from: str
) -> None:
    """The position of `startFrom` belongs to the deleted stream."""
    handler, peer = Recorder(), Recorder()
    processor = await any_group.start(handler, start_from=start_from)
    await any_group.wait_until_reading()
    await any_group.add(1)
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    await eventually(lambda: _snapshot_saved(any_group, handler.ids[-1]))
    await processor.stop_listening()
    await any_group.client.delete(STREAM)
    await any_group.client.xadd(STREAM, {"n": "first"}, id="1-1")
    await any_group.start(peer, "pod-b", start_from=start_from)
    await peer.wait_until_finished(1)
    assert peer.ids == ["1-1"]


@ON_ONE_SERVER
async def test_group_recreated_by_another_program_gets_its_pending_entries_back(any_group: Group) -> None:
    await any_group.create_group()
    ids = await any_group.add(3)
    await any_group.read_as("dead", 3)
    handler = Recorder()
    await any_group.start(handler, "pod-b", poll=1)
    await any_group.wait_until_reading()
    async with any_group.client.pipeline(transaction=True) as together:
        together.xgroup_destroy(STREAM, GROUP)
        together.xgroup_create(STREAM, GROUP, "$")
        await together.execute()
    await any_group.add()  # the snapshot is saved only while entries are pending
    await handler.wait_until_finished(4)
    await any_group.wait_settled()
    assert set(handler.ids) > set(ids)


async def test_recovery_restores_a_group_that_another_program_has_recreated(any_group: Group) -> None:
    execute = any_group.manager().execute
    dead, peer = (GroupSnapshot(execute, STREAM, GROUP, name) for name in ("dead", "peer"))
    await any_group.create_group()
    ids = await any_group.add(2)
    await any_group.read_as("dead", 1)
    await dead.save()
    await any_group.read_as("dead", 1)
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await any_group.client.xgroup_create(STREAM, GROUP, "$")
    await peer.restore_group(ids[-1], "0")
    await peer.restore_entries()
    assert [each.message_id for each in await any_group.entries()] == ids


@pytest.mark.parametrize("way", ["heartbeat", "recreation"])
async def test_restored_entry_survives_a_second_loss_before_the_next_snapshot(any_group: Group, way: str) -> None:
    execute = any_group.manager().execute
    dead, peer = (GroupSnapshot(execute, STREAM, GROUP, name) for name in ("dead", "peer"))
    await any_group.create_group()
    ids = await any_group.add(3)
    await any_group.read_as("dead", 3)
    await dead.save()
    written = await _saved_at(any_group)
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await peer.restore_group("0-0", "0")
    await peer.restore_entries()

    async def saved_again() -> bool:
        await peer.save()
        return bool(await _saved_at(any_group) != written)

    await eventually(saved_again)
    if way == "heartbeat":
        assert not await Leases(execute, STREAM, GROUP, "dead").renew(ids)
    else:
        await dead.restore_group("0-0", "0")
        await dead.restore_entries()
        assert not await Leases(execute, STREAM, GROUP, "dead").renew(ids)
    assert {each.consumer for each in await any_group.entries()} == {"dead"}
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await peer.restore_group(ids[-1], "0")
    await peer.restore_entries()
    assert [each.message_id for each in await any_group.entries()] == ids


async def test_entry_trimmed_after_the_snapshot_is_not_restored(any_group: Group) -> None:
    execute = any_group.manager().execute
    peer = GroupSnapshot(execute, STREAM, GROUP, "peer")
    await any_group.create_group()
    trimmed, *ids = await any_group.add(3)
    await any_group.read_as("dead", 3)
    await peer.save()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await any_group.client.xdel(STREAM, trimmed)
    await peer.restore_group("0-0", "0")
    await peer.restore_entries()
    assert [each.message_id for each in await any_group.entries()] == ids
    due: list[str] = []

    async def all_are_due() -> bool:
        claimed = await claim_due(any_group, "peer")
        assert not claimed.trimmed
        due.extend(each.message_id for each in claimed.entries)
        return len(due) == len(ids)

    await eventually(all_are_due)
    assert await any_group.client.zscore(group_key(STREAM, GROUP, "postponed"), trimmed) is None


async def _snapshot_saved(group: Group, position: str, pending: str = "") -> bool:
    reply: Any = group.client.hmget(group_key(STREAM, GROUP, "last-known"), ["position", "pending"])
    return bool(await reply == [position, pending])


async def _saved_at(group: Group) -> Any:
    return await group.client.hget(group_key(STREAM, GROUP, "last-known"), "at")


async def test_busy_consumer_drops_the_entries_of_a_stream_that_another_consumer_found_recreated(group: Group) -> None:
    """The busy consumer gets no error: its next read finds the new group, and entries with smaller ids."""
    handler = Recorder(gate=False)
    [old] = await group.add()
    processor = await group.start(handler, concurrency=2, poll=60)
    await handler.wait_until_received(1)
    await group.wait_until_reading()
    pipeline = group.client.pipeline(transaction=True)
    pipeline.delete(STREAM)
    pipeline.xadd(STREAM, {"n": "new"}, id="5-0")
    pipeline.xgroup_create(STREAM, GROUP, "0")
    await pipeline.execute()
    await group.client.xadd(STREAM, {"n": "new"}, id="6-0")
    await eventually(lambda: old not in processor._pipeline.in_flight.entries)
    handler.gate.set()
    await eventually(lambda: {"5-0", "6-0"} <= set(handler.finished))
    await group.wait_settled()
    assert old not in handler.finished
    assert processor.metrics.groups_recreated == 0


async def test_processor_that_finds_companion_keys_of_a_newer_format_is_not_ready(any_group: Group) -> None:
    key, health, handler = group_key(STREAM, GROUP, "last-known"), Health(), Recorder()
    await any_group.create_group()
    await any_group.add(1)
    await any_group.client.hset(key, "format", 2)
    await any_group.start(handler, settings={"health": health})
    await eventually(lambda: "found companion keys of format 2, expected at most 1" in health.readiness()[1])
    assert not handler.received
    await any_group.client.hset(key, "format", 1)
    await handler.wait_until_finished(1)
    assert health.readiness()[0]


# -- the commands of one consumer --------------------------------------------------------------------------------------

LAST_KNOWN = group_key(STREAM, GROUP, "last-known")


@pytest.fixture
def snapshot(group: Group) -> GroupSnapshot:
    return GroupSnapshot(group.manager().execute, STREAM, GROUP, "pod-a")


async def test_snapshot_is_saved_at_most_once_per_interval(snapshot: GroupSnapshot, group: Group) -> None:
    await snapshot.restore_group("0-0", "0")
    await snapshot.restore_entries()
    [message_id] = await group.add()
    await group.read_as("pod-b")
    assert [await snapshot.save(), await snapshot.save()] == [True, False]
    saved = await group.client.hgetall(LAST_KNOWN)
    assert (saved["position"], saved["pending"], saved["format"]) == (message_id, message_id, "1")


async def test_entries_of_a_lost_group_are_restored_before_the_next_snapshot(
    snapshot: GroupSnapshot, group: Group
) -> None:
    ids = await group.add(250)
    assert await snapshot.restore_group("0-0", "0") == ("0", False)
    await group.read_as("pod-b", 250)
    assert await snapshot.save()
    await group.client.xgroup_destroy(STREAM, GROUP)
    assert await snapshot.restore_group("0-0", "$") == (ids[-1], False)
    await group.client.hdel(LAST_KNOWN, "at")  # otherwise the snapshot is too recent for another
    assert await snapshot.save()
    assert [(each.message_id, each.consumer) for each in await group.entries()] == [
        (message_id, POSTPONED_CONSUMER) for message_id in ids
    ]
    assert (await group.client.hgetall(LAST_KNOWN)).keys() == {"format", "at", "position", "pending"}


async def test_missing_group_has_no_snapshot(snapshot: GroupSnapshot, group: Group) -> None:
    assert await snapshot.save(), "the caller need not call again"
    assert not await group.client.exists(LAST_KNOWN)


async def test_group_starts_at_the_position_that_the_consumer_knows(snapshot: GroupSnapshot, group: Group) -> None:
    ids = await group.add(3)
    assert await snapshot.restore_group(ids[1], "0") == (ids[1], False)
    await group.client.delete(STREAM)
    await group.client.xadd(STREAM, {"n": "0"}, id="1-1")
    assert await snapshot.restore_group(ids[1], "0") == ("0-0", True)


async def test_companion_keys_of_a_newer_format_are_an_error(snapshot: GroupSnapshot, group: Group) -> None:
    await group.client.hset(LAST_KNOWN, "format", 7)
    with pytest.raises(NewerFormat, match=r"stream 'orders', group 'billing': found .* format 7, expected at most 1"):
        await snapshot.save()
    await group.client.set(LAST_KNOWN, "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await snapshot.save()


@pytest.mark.parametrize("reply", [b"other", None, 1])
async def test_odd_reply_to_a_snapshot_is_an_error(reply: Any) -> None:
    async def answer(*_command: Any) -> Any:
        return reply

    snapshot = GroupSnapshot(answer, STREAM, GROUP, "pod-a")
    with pytest.raises(UnexpectedReply):
        await snapshot.save()
    with pytest.raises(UnexpectedReply):
        await snapshot.restore_group("0-0", "0")
