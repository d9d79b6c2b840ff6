"""State of an entry, and the transitions of the scripts, on real servers."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.processor.consumer.group_snapshot import GroupSnapshot
from streamconsumer.processor.consumer.large_entries import BoundedReads
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.consumer.memory_limit import memory_limits
from streamconsumer.processor.consumer.pending_entries import Dead, PendingEntries, PendingEntry
from streamconsumer.processor.consumer.read_size import ReadSize
from streamconsumer.processor.dead_letters.writer import DeadLetterWriter
from streamconsumer.redis_client.keys import entry_keys, group_key
from streamconsumer.redis_client.outcome import Outcome
from tests.processor.group import GROUP, STREAM, Group

ME = "pod-a"
_, SCHEDULE, CLAIMED, CLAIMED_BEFORE, COMMITTED = entry_keys(STREAM, GROUP)


class Member:
    """Member of the group that calls the scripts."""

    def __init__(self, group: Group, name: str) -> None:
        manager, limits = group.manager(), memory_limits(group.delivery.max_entry_bytes)
        self.name, self.group = name, group
        self.leases = Leases(manager.execute, STREAM, GROUP, name)
        self.snapshot = GroupSnapshot(manager.execute, STREAM, GROUP, name)
        self.reads = BoundedReads(manager, limits, ReadSize(limits))
        self.pending = PendingEntries(manager.execute, self.reads, STREAM, GROUP, name)

    async def claim(self, owner: str, message_id: str) -> list[str]:
        claimed = await self.pending.claim([PendingEntry(message_id, 1)], Dead(owner, timedelta(0)))
        await self.reads.connection.close()
        return [entry.message_id for entry in claimed.entries]

    async def claim_due(self) -> list[str]:
        claimed = await self.pending.claim_due(10)
        await self.reads.connection.close()
        return [entry.message_id for entry in claimed.entries]

    async def restore(self, position: str = "0-0") -> None:
        await self.snapshot.restore_group(position, "0")
        await self.snapshot.restore_entries()


async def mine(group: Group) -> str:
    await group.create_group()
    [message_id] = await group.add(1)
    await group.read_as(ME, 1)
    return message_id


async def peer(group: Group) -> str:
    message_id = await mine(group)
    assert await Member(group, "peer").claim(ME, message_id) == [message_id]
    return message_id


async def settled_by_peer(group: Group) -> str:
    message_id = await peer(group)
    await group.client.xack(STREAM, GROUP, message_id)
    return message_id


async def postponed(group: Group) -> str:
    message_id = await mine(group)
    assert await Member(group, ME).leases.postpone([(message_id, 1, timedelta(hours=1))]) == [Outcome.DONE]
    return message_id


async def restored(group: Group) -> str:
    message_id = await mine(group)
    observer = Member(group, "observer")
    await observer.snapshot.save()
    await group.client.xgroup_destroy(STREAM, GROUP)
    await observer.restore()
    return message_id


async def orphaned(group: Group) -> str:
    message_id = await mine(group)
    await group.client.xgroup_delconsumer(STREAM, GROUP, ME)
    return message_id


async def committed(group: Group) -> str:
    """The dead letter of the entry is written, and the reply may be lost."""
    message_id = await mine(group)
    writer = DeadLetterWriter(group.manager().execute_pipeline, STREAM, GROUP, group_key(STREAM, GROUP, "dead"), 10)
    assert await writer.write_many(ME, [(message_id, [b"n", b"0"])]) == [Outcome.DONE]
    return message_id


async def trimmed(group: Group) -> str:
    message_id = await orphaned(group)
    await group.client.xdel(STREAM, message_id)
    return message_id


State = Callable[[Group], Awaitable[str]]
STATES: tuple[State, ...] = (mine, peer, settled_by_peer, postponed, restored, committed, orphaned, trimmed)


async def owner(group: Group, message_id: str) -> str:
    return next((each.consumer for each in await group.entries() if each.message_id == message_id), "")


async def renew(me: Member, message_id: str) -> Any:
    return "lost" if await me.leases.renew([message_id]) else "done"


async def start(me: Member, message_id: str) -> Any:
    return await me.leases.start_attempt(message_id, 2)


async def postpone(me: Member, message_id: str) -> Any:
    return (await me.leases.postpone([(message_id, 1, timedelta(hours=1))]))[0]


async def count(me: Member, message_id: str) -> Any:
    await me.leases.set_delivery_counts([(message_id, 7)])
    return "done"


Operation = Callable[[Member, str], Awaitable[Any]]
EXPECTED: dict[Operation, dict[State, tuple[str, str]]] = {
    renew: {
        **dict.fromkeys((mine, restored, orphaned), ("done", ME)),
        peer: ("lost", "peer"),
        settled_by_peer: ("lost", ""),
        postponed: ("lost", "~postponed"),
        committed: ("done", ""),
        trimmed: ("done", ""),
    },
    start: {
        **dict.fromkeys((mine, restored, orphaned), ("done", ME)),
        peer: ("lost", "peer"),
        settled_by_peer: ("lost", ""),
        postponed: ("lost", "~postponed"),
        committed: ("lost", ""),
        trimmed: ("trimmed", ""),
    },
    postpone: {
        **dict.fromkeys((mine, postponed, restored, orphaned), ("done", "~postponed")),
        peer: ("lost", "peer"),
        settled_by_peer: ("lost", ""),
        committed: ("lost", ""),
        trimmed: ("trimmed", ""),
    },
    count: {
        **dict.fromkeys((mine, restored, orphaned), ("done", ME)),
        peer: ("done", "peer"),
        settled_by_peer: ("done", ""),
        postponed: ("done", "~postponed"),
        committed: ("done", ""),
        trimmed: ("done", ""),
    },
}
"""Outcome of each operation, and the owner of the entry afterwards. Empty if the entry is not pending."""


@pytest.mark.parametrize("operation", EXPECTED, ids=lambda each: each.__name__)
@pytest.mark.parametrize("state", STATES, ids=lambda each: each.__name__)
async def test_operation_does_what_the_state_of_the_entry_requires(
    any_group: Group, state: State, operation: Operation
) -> None:
    message_id = await state(any_group)
    outcome = await operation(Member(any_group, ME), message_id)
    assert (outcome, await owner(any_group, message_id)) == EXPECTED[operation][state]


# -- restoring a lost group --------------------------------------------------------------------------------------------


async def test_due_claim_keeps_a_restored_entry_that_a_second_loss_made_orphaned(any_group: Group) -> None:
    message_id, observer = await restored(any_group), Member(any_group, "observer")
    await any_group.client.zadd(SCHEDULE, {message_id: 0.5})
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await any_group.client.hset(group_key(STREAM, GROUP, "last-known"), "pending", "")
    await observer.snapshot.restore_group("0-0", "0")
    assert await observer.claim_due() == []
    await observer.snapshot.restore_entries()
    assert await observer.claim_due() == [message_id]


async def test_claim_before_the_loss_of_the_group_does_not_hide_a_new_delivery(any_group: Group) -> None:
    """A consumer claims an entry, the group is recreated before the entry, and another consumer reads the entry."""
    message_id = await mine(any_group)
    peer_member = Member(any_group, "peer")
    await any_group.client.hset(group_key(STREAM, GROUP, "last-known"), mapping={"position": "0-0", "pending": ""})
    assert await peer_member.claim(ME, message_id) == [message_id]
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await peer_member.restore()
    assert await any_group.read_as(ME, 1) == [message_id]
    await any_group.client.xgroup_delconsumer(STREAM, GROUP, ME)
    me = Member(any_group, ME)
    assert await start(me, message_id) is Outcome.DONE
    assert await owner(any_group, message_id) == ME


async def test_claim_of_an_entry_that_will_be_delivered_again_is_not_recorded(any_group: Group) -> None:
    message_id = await mine(any_group)
    await any_group.client.xgroup_setid(STREAM, GROUP, "0")
    assert await Member(any_group, "peer").claim(ME, message_id) == [message_id]
    assert not await any_group.client.hgetall(CLAIMED)


async def test_companion_keys_of_a_previous_stream_are_deleted_with_it(any_group: Group) -> None:
    message_id = await peer(any_group)
    member = Member(any_group, "peer")
    await member.snapshot.save()
    await any_group.client.zadd(COMMITTED, {message_id: 1})
    await any_group.client.delete(STREAM)
    assert (await member.snapshot.restore_group(message_id, "0")).is_new_stream
    await member.snapshot.restore_entries()
    assert not await any_group.client.exists(CLAIMED, CLAIMED_BEFORE, COMMITTED)


# -- records of claims -------------------------------------------------------------------------------------------------


async def test_records_of_claims_are_limited_in_number_and_age(any_group: Group) -> None:
    message_id = await mine(any_group)
    await any_group.client.hset(CLAIMED, mapping={f"{number}-0": "x" for number in range(4999)})
    assert await Member(any_group, "peer").claim(ME, message_id) == [message_id]
    assert await any_group.client.hlen(CLAIMED_BEFORE) == 5000
    assert not await any_group.client.exists(CLAIMED)
    assert 86_000 < await any_group.client.ttl(CLAIMED_BEFORE) <= 86_400
    await any_group.client.xack(STREAM, GROUP, message_id)
    assert await renew(Member(any_group, ME), message_id) == "lost"
