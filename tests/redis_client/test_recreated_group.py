"""Scripts that find a group that another program has deleted and created again."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from streamconsumer.processor.consumer.group_snapshot import RESTORE_ENTRIES, GroupSnapshot
from streamconsumer.processor.consumer.leases import Leases
from streamconsumer.processor.dead_letters.store import REDELIVER
from streamconsumer.redis_client.keys import entry_keys, group_key
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.group import GROUP, STREAM, Group

KEYS = entry_keys(STREAM, GROUP)
SNAPSHOT, DEAD_LETTERS = group_key(STREAM, GROUP, "last-known"), group_key(STREAM, GROUP, "dead-letters")


async def read_as_dead(group: Group, count: int) -> list[str]:
    """Add entries, and let a consumer read them that never settles them."""
    ids = await group.add(count)
    await group.read_as("dead", count)
    return ids


async def recreate(group: Group) -> None:
    """Delete and create the group as another program."""
    async with group.client.pipeline() as together:
        together.xgroup_destroy(STREAM, GROUP)
        together.xgroup_create(STREAM, GROUP, "$")
        await together.execute()


async def save_again(group: Group, snapshot: GroupSnapshot) -> None:
    """Save a snapshot although the previous snapshot was saved just now."""
    await group.client.hset(SNAPSHOT, "at", 1)
    assert await snapshot.save()


async def postponed_ids(group: Group) -> set[str]:
    return {each.message_id for each in await group.entries() if each.consumer == "~postponed"}


async def postpone(group: Group, message_id: str) -> None:
    await Leases(group.manager().execute, STREAM, GROUP, "pod-a").postpone([(message_id, 1, timedelta(hours=1))])


async def redeliver(group: Group, message_id: str) -> None:
    dead_letter_id = await group.client.xadd(DEAD_LETTERS, {"n": 1})
    keys = (*KEYS, DEAD_LETTERS, SNAPSHOT)
    await group.manager().execute("EVAL", REDELIVER, len(keys), *keys, GROUP, "", dead_letter_id, message_id)


@ON_ONE_SERVER
@pytest.mark.parametrize("move", [postpone, redeliver], ids=lambda each: each.__name__)
async def test_script_that_creates_the_pseudo_consumer_keeps_the_entries_in_the_snapshot(
    any_group: Group, move: Callable[[Group, str], Awaitable[None]]
) -> None:
    await any_group.create_group()
    ids = await read_as_dead(any_group, 3)
    snapshot = GroupSnapshot(any_group.manager().execute, STREAM, GROUP, "pod-a")
    await save_again(any_group, snapshot)
    await recreate(any_group)
    await move(any_group, ids[0])
    await save_again(any_group, snapshot)
    assert await postponed_ids(any_group) == set(ids)


@ON_ONE_SERVER
@pytest.mark.parametrize("pages", range(1, 7))
@pytest.mark.parametrize("is_saved", [True, False], ids=["in the snapshot", "delivered after the snapshot"])
async def test_restore_in_progress_restores_all_entries_in_a_recreated_group(
    any_group: Group, is_saved: bool, pages: int
) -> None:
    manager, keys = any_group.manager(), [*KEYS, SNAPSHOT]
    snapshot = GroupSnapshot(manager.execute, STREAM, GROUP, "pod-a")
    await any_group.create_group()
    ids = await read_as_dead(any_group, 1)
    await save_again(any_group, snapshot)
    ids += await read_as_dead(any_group, 250)
    if is_saved:
        await save_again(any_group, snapshot)
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    await snapshot.restore_group(ids[-1], "0")
    for _ in range(pages):
        await manager.execute("EVAL", RESTORE_ENTRIES, len(keys), *keys, GROUP, "pod-a")
    await recreate(any_group)
    await snapshot.restore_entries()
    await save_again(any_group, snapshot)
    assert await postponed_ids(any_group) == set(ids)
