"""Pending entries are listed and claimed within the limits that the caller sets."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from streamconsumer.processor.consumer.large_entries import BoundedReads, Claimed
from streamconsumer.processor.consumer.memory_limit import memory_limits
from streamconsumer.processor.consumer.pending_entries import Dead, PendingEntries, PendingEntry
from streamconsumer.processor.consumer.read_size import ReadSize
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from tests.processor.group import GROUP, STREAM, Group


@pytest.fixture
async def pending(group: Group) -> AsyncIterator[PendingEntries]:
    """Yield the pending entries list of a group that exists, as seen by pod-a."""
    await group.create_group()
    manager, limits = group.manager(), memory_limits(group.delivery.max_entry_bytes)
    reads = BoundedReads(manager, limits, ReadSize(limits))
    yield PendingEntries(manager.execute, reads, STREAM, GROUP, "pod-a")
    await reads.connection.close()


async def delivered(group: Group, count: int, consumer: str, *, idle_ms: int = 60_000) -> list[str]:
    """Add entries that are pending with a consumer, and idle. Returns their ids."""
    ids = await group.add(count)
    await group.read_as(consumer, count)
    await group.claim(ids, consumer, idle_ms=idle_ms)
    return ids


async def test_page_contains_only_entries_of_the_owner_that_match(pending: PendingEntries, group: Group) -> None:
    ids = await delivered(group, 3, "pod-b")
    await delivered(group, 1, "pod-c")
    young = await delivered(group, 1, "pod-b", idle_ms=0)

    async def listed(count: int = 10, after: str = "", idle: timedelta | None = None) -> list[str]:
        page = await pending.page("pod-b", count, after=after, idle=idle)
        assert {each.deliveries for each in page} <= {1}
        return [each.message_id for each in page]

    assert await listed() == [*ids, *young]
    assert await listed(count=2) == ids[:2]
    assert await listed(after=ids[0]) == [*ids[1:], *young]
    assert await listed(idle=timedelta(seconds=30)) == ids
    assert await listed(after=young[0]) == []


async def test_entries_of_a_dead_consumer_are_claimed_up_to_the_limit(pending: PendingEntries, group: Group) -> None:
    ids = await delivered(group, 4, "pod-b")
    await group.client.xdel(STREAM, ids[0])
    listed = [PendingEntry(message_id, number) for number, message_id in enumerate(ids, 1)]
    dead = Dead("pod-b", timedelta(seconds=30))
    claimed = await pending.claim(listed, dead, 2)
    assert [(each.message_id, each.deliveries) for each in claimed.entries] == [(ids[1], 2), (ids[2], 3)]
    assert (claimed.trimmed, claimed.examined) == (1, 3)
    claimed = await pending.claim(listed[3:], dead)
    assert [each.message_id for each in claimed.entries] == ids[3:]
    assert {each.consumer for each in await group.entries()} == {"pod-a"}


@pytest.mark.parametrize("dead", [Dead("pod-b", timedelta(minutes=2)), Dead("pod-c", timedelta(seconds=30))])
async def test_entry_is_claimed_only_from_its_owner_and_only_if_it_is_idle(
    pending: PendingEntries, group: Group, dead: Dead
) -> None:
    [message_id] = await delivered(group, 1, "pod-b")
    assert not (await pending.claim([PendingEntry(message_id, 1)], dead)).entries


async def test_claim_of_no_entries_sends_no_command(pending: PendingEntries, group: Group) -> None:
    await group.reset_command_counts()
    assert await pending.claim([], Dead("pod-b", timedelta(0))) == Claimed([], 0)
    assert not await group.command_counts()


async def test_due_entries_are_claimed_up_to_the_limit(pending: PendingEntries, group: Group) -> None:
    ids = await delivered(group, 4, POSTPONED_CONSUMER)
    await group.client.xdel(STREAM, ids[0])
    schedule = dict.fromkeys(ids[:3], 1) | {ids[3]: 10**14}
    await group.client.zadd(group_key(STREAM, GROUP, "postponed"), schedule)
    claimed = await pending.claim_due(1)
    assert ([each.message_id for each in claimed.entries], claimed.trimmed, claimed.examined) == ([ids[1]], 1, 2)
    claimed = await pending.claim_due(10)
    assert ([each.message_id for each in claimed.entries], claimed.trimmed, claimed.examined) == ([ids[2]], 0, 1)
