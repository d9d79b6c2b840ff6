"""The group goes while it is read: it is created again and nothing that Redis still holds is lost."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.settings import Breaker, Delivery
from streamconsumer.processor import Message, Retry, current_message
from streamconsumer.processor.stream.last_known import LastKnown
from streamconsumer.processor.stream.ownership import Ownership
from streamconsumer.server.keys import companion
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder, once

WAYS = {
    "XGROUP DESTROY": ("XGROUP", "DESTROY", STREAM, GROUP),
    "DEL": ("DEL", STREAM),
    "FLUSHALL": ("FLUSHALL",),
}
by_every_way = pytest.mark.parametrize("way", list(WAYS))


@ON_ONE_SERVER
@by_every_way
async def test_a_group_that_goes_while_its_reader_waits_is_created_again(any_group: Group, way: str) -> None:
    handler = Recorder()
    processor = await any_group.start(handler, poll=1)
    await any_group.add(3)
    await handler.has_finished(3)
    await any_group.settled()
    await any_group.is_reading()
    await eventually(lambda: _noted(any_group, handler.ids[-1]))
    await any_group.client.execute_command(*WAYS[way])  # type: ignore[no-untyped-call] # ships no types for it
    later = await any_group.add(3)
    await handler.has_finished(6)
    await any_group.settled()
    assert handler.ids[3:] == later, "and no message that the note shows as acknowledged is handled again"
    assert processor.metrics.groups_recreated == 1
    assert processor.metrics.faults == 0


@by_every_way
async def test_a_group_that_goes_while_a_message_is_handled_is_created_again(any_group: Group, way: str) -> None:
    handler = Recorder(gate=False)
    await any_group.start(handler, poll=1)
    [first] = await any_group.add()
    await handler.has_seen(1)
    await any_group.client.execute_command(*WAYS[way])  # type: ignore[no-untyped-call] # ships no types for it
    handler.gate.set()
    await asyncio.sleep(0.002)  # a new stream in the same millisecond would give out the same id again
    later = await any_group.add(3)
    await eventually(lambda: set(handler.finished) >= set(later))
    await any_group.settled()
    assert [each for each in handler.ids if each in later] == later
    assert handler.ids.count(first) <= 2, "an acknowledgement that was lost with the group costs one repetition"


async def test_what_is_in_flight_when_the_group_is_destroyed_stays_pending_until_it_is_done(any_group: Group) -> None:
    handler = Recorder(gate=False)
    ids = await any_group.add(5)
    processor = await any_group.start(handler, concurrency=8, min_idle=1)
    await handler.has_seen(5)
    await any_group.client.xgroup_destroy(STREAM, GROUP)

    async def pending_again() -> bool:
        return await any_group.exists() and [each.message_id for each in await any_group.entries()] == ids

    await eventually(pending_again)
    await asyncio.sleep(1.5)
    handler.gate.set()
    await handler.has_finished(5)
    await any_group.settled()
    assert handler.ids == ids
    assert processor.metrics.lost_ownership == 0


async def test_what_failed_before_the_group_is_destroyed_is_tried_again(any_group: Group) -> None:
    """It is pending nowhere any more: only this process knows of it."""
    handler = Recorder(once(Retry("not yet", after=timedelta(seconds=1))))
    bad, *_ = await any_group.add(1)
    await any_group.start(handler, min_idle=1)
    await handler.has_seen(1)
    await any_group.is_reading()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await handler.has_finished(1)
    await any_group.settled()
    assert handler.finished == [bad]


async def test_every_consumer_keeps_its_own_when_the_group_is_destroyed(any_group: Group) -> None:
    """Whoever comes first creates the group where it was for itself; the others had gone further, or less far."""
    later = timedelta(seconds=1.5)
    any_group.delivery = Delivery(breaker=Breaker(failures=0))
    first, second = Recorder(once(Retry("a", after=later))), Recorder(once(Retry("b", after=later)))
    for handler, name in ((first, "pod-a"), (second, "pod-b")):
        await any_group.start(handler, name, min_idle=1, poll=0.5)
        await any_group.is_reading()
    ids = await any_group.add(1)
    await eventually(lambda: len(first.seen) + len(second.seen) == 1)
    ids += await any_group.add(40)
    await eventually(lambda: len(first.seen) + len(second.seen) == 41)
    await any_group.is_reading()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await eventually(lambda: sorted(first.finished + second.finished) == sorted(ids))
    await any_group.settled()


async def test_a_group_that_began_at_the_dollar_is_not_created_there_again(any_group: Group) -> None:
    handler = Recorder()
    await any_group.add(3)
    await any_group.start(handler, start_from="$", poll=1)
    await any_group.is_reading()
    async with any_group.client.pipeline(transaction=True) as together:
        together.xgroup_destroy(STREAM, GROUP)
        together.xadd(STREAM, {"n": "after"})
        await together.execute()
    await handler.has_finished(1)
    assert [message.data for message in handler.seen] == [{"n": "after"}]


async def test_a_restarted_consumer_that_has_read_nothing_yet_knows_where_the_group_was(group: Group) -> None:
    await group.create()
    await group.add(50)
    for message_id in await group.read_as("before", 50):
        await group.client.xack(STREAM, GROUP, message_id)
    handler = Recorder()
    await group.start(handler)
    await group.is_reading()
    await group.client.xgroup_destroy(STREAM, GROUP)
    later = await group.add(2)
    await handler.has_finished(2)
    assert handler.ids == later


async def test_a_stream_that_is_flushed_again_and_again_under_load_is_followed(group: Group) -> None:
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
    await group.settled()


async def test_a_message_in_flight_is_kept_when_a_peer_creates_the_group_again(any_group: Group) -> None:
    busy, idle = Recorder(gate=False), Recorder()
    [running] = await any_group.add()
    await any_group.start(busy, min_idle=3)
    await busy.has_seen(1)
    await any_group.start(idle, "pod-b", poll=0.2, min_idle=3)
    [beyond] = await any_group.add()
    await idle.has_finished(1)
    await eventually(lambda: _noted(any_group, beyond, running))
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await eventually(any_group.exists)  # the idle one created it again, behind what the busy one holds
    await asyncio.sleep(1)  # several renewals
    assert not busy.cancelled
    busy.gate.set()
    await busy.has_finished(1)
    await any_group.settled()
    assert (busy.ids, idle.ids) == ([running], [beyond])


async def test_a_failed_message_is_tried_again_although_a_peer_created_the_group_again(any_group: Group) -> None:
    def first_time(message: Message) -> BaseException | None:
        return (
            Retry("not yet", after=timedelta(seconds=1))
            if message.deliveries == 1 and message.data["n"] == "0"
            else None
        )

    failing, idle = Recorder(first_time), Recorder(gate=False)
    [failed] = await any_group.add()
    await any_group.start(failing, min_idle=2)
    await failing.has_seen(1)
    await any_group.start(idle, "pod-b", poll=0.2, min_idle=60)
    async with any_group.client.pipeline(transaction=True) as together:
        together.xgroup_destroy(STREAM, GROUP)
        together.xgroup_create(STREAM, GROUP, "$")
        await together.execute()
    await failing.has_seen(2)
    assert failing.ids == [failed, failed]
    assert not idle.seen


async def test_what_a_dead_consumer_held_is_not_lost_with_the_group(any_group: Group) -> None:
    """Two faults at once: nobody is left who knows of it, but what was written down beside the group."""
    await any_group.create()
    held = await any_group.add(3)
    await any_group.read_as("dead", 3)
    handler = Recorder()
    await any_group.start(handler, "pod-b", poll=1)
    await any_group.is_reading()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await handler.has_finished(3)
    await any_group.settled()
    assert sorted(handler.ids) == held


async def test_what_was_postponed_and_taken_by_a_lost_reply_is_not_lost_with_the_group(any_group: Group) -> None:
    await any_group.create()
    [lost] = await any_group.add()
    await any_group.read_as("dead")
    dead = Ownership(any_group.manager().ask, STREAM, GROUP, "dead")
    await dead.postpone([(lost, 1, timedelta(0))])
    _, [taken] = await dead.due(10)
    assert taken.message_id == lost
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    handler = Recorder()
    await any_group.start(handler, start_from="$")
    await handler.has_finished(1)
    await any_group.settled()
    assert handler.ids == [lost]


async def test_a_group_that_goes_while_nobody_is_there_goes_on_where_it_was(any_group: Group) -> None:
    handler, heir = Recorder(), Recorder()
    processor = await any_group.start(handler)
    await any_group.add(5)
    await handler.has_finished(5)
    await any_group.settled()
    await eventually(lambda: _noted(any_group, handler.ids[-1]))
    await processor.stop_listening()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    later = await any_group.add(2)
    await any_group.start(heir, "pod-b")
    await heir.has_finished(2)
    await any_group.settled()
    assert heir.ids == later


@ON_ONE_SERVER
async def test_a_group_that_a_stranger_created_again_gets_back_what_was_pending(any_group: Group) -> None:
    await any_group.create()
    held = await any_group.add(3)
    await any_group.read_as("dead", 3)
    handler = Recorder()
    await any_group.start(handler, "pod-b", poll=1)
    await any_group.is_reading()
    async with any_group.client.pipeline(transaction=True) as together:
        together.xgroup_destroy(STREAM, GROUP)
        together.xgroup_create(STREAM, GROUP, "$")
        await together.execute()
    await any_group.add()  # somebody writes down what is pending only while anything is
    await handler.has_finished(4)
    await any_group.settled()
    assert set(handler.ids) > set(held)


@pytest.mark.parametrize("way", ["heartbeat", "recreation"])
async def test_an_entry_that_was_taken_back_survives_a_second_loss_of_the_group_before_the_next_note(
    any_group: Group, way: str
) -> None:
    ask = any_group.manager().ask
    dead, heir = (LastKnown(ask, STREAM, GROUP, name) for name in ("dead", "heir"))
    await any_group.create()
    held = await any_group.add(3)
    await any_group.read_as("dead", 3)
    await dead.note()
    written = await _noted_at(any_group)
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await heir.recreate("0-0", "0")

    async def noted_again() -> bool:
        await heir.note()
        return bool(await _noted_at(any_group) != written)

    await eventually(noted_again)
    if way == "heartbeat":
        assert not await Ownership(ask, STREAM, GROUP, "dead").renew(held)
    else:
        await dead.recreate("0-0", "0", in_flight=held)
    assert {each.consumer for each in await any_group.entries()} == {"dead"}
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await heir.recreate(held[-1], "0")
    assert [each.message_id for each in await any_group.entries()] == held


async def test_an_entry_that_was_trimmed_since_the_note_is_not_put_back(any_group: Group) -> None:
    ask = any_group.manager().ask
    heir = LastKnown(ask, STREAM, GROUP, "heir")
    await any_group.create()
    trimmed, *held = await any_group.add(3)
    await any_group.read_as("dead", 3)
    await heir.note()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await any_group.client.xdel(STREAM, trimmed)
    await heir.recreate("0-0", "0")
    assert [each.message_id for each in await any_group.entries()] == held
    due: list[str] = []

    async def all_are_due() -> bool:
        lost, found = await Ownership(ask, STREAM, GROUP, "heir").due(10)
        assert not lost
        due.extend(each.message_id for each in found)
        return len(due) == len(held)

    await eventually(all_are_due)
    assert await any_group.client.zscore(companion(STREAM, GROUP, "postponed"), trimmed) is None


async def _noted(group: Group, position: str, pending: str = "") -> bool:
    found: Any = group.client.hmget(companion(STREAM, GROUP, "last-known"), ["position", "pending"])
    return bool(await found == [position, pending])


async def _noted_at(group: Group) -> Any:
    return await group.client.hget(companion(STREAM, GROUP, "last-known"), "at")
