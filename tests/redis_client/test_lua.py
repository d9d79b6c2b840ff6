"""Lua scripts: they compile on each server, use the functions that they name, and make a limited number of calls."""

import pkgutil
import re
from collections.abc import Awaitable, Callable
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

import pytest

import streamconsumer
from streamconsumer.processor.consumer import group_snapshot, leases, pending_entries
from streamconsumer.processor.consumer.effects_commit import COMMIT
from streamconsumer.processor.consumer.retention import GROUP_BOUNDS, MAX_GROUPS
from streamconsumer.processor.handler.effects import MAX_EFFECTS, Effects
from streamconsumer.redis_client.keys import entry_keys, group_key
from streamconsumer.redis_client.scripts import Script
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.group import GROUP, STREAM, Group

MAX_CALLS = 1000
LUA = files("streamconsumer.redis_client").joinpath("lua")
KEYS = entry_keys(STREAM, GROUP)
SNAPSHOT_KEYS = [*KEYS, group_key(STREAM, GROUP, "last-known")]
REGISTRATIONS = group_key(STREAM, GROUP, "registrations")


@cache
def scripts() -> dict[str, Script]:
    """Return all scripts by name."""
    found: dict[str, Script] = {}
    for module in pkgutil.walk_packages(streamconsumer.__path__, "streamconsumer."):
        if not module.name.endswith("__main__"):
            found |= {
                value.name: value for value in vars(import_module(module.name)).values() if isinstance(value, Script)
            }
    return found


def test_each_file_is_a_script_or_a_function_that_a_script_uses() -> None:
    names = {path.name.removesuffix(".lua") for path in LUA.iterdir() if path.name.endswith(".lua")}
    assert names == set(scripts())
    text = "\n".join(scripts().values())
    unused = [path.name for path in LUA.joinpath("lib").iterdir() if path.read_text() not in text]
    assert not unused


async def test_each_script_compiles(any_group: Group) -> None:
    for script in scripts().values():
        assert await any_group.client.script_load(script) == script.sha1, script.name


def test_each_script_contains_only_the_functions_that_it_uses() -> None:
    codes = {name: re.sub(r"--[^\n]*", "", script) for name, script in scripts().items()}
    assert not [
        f"{name}: {function} is not used"
        for name, code in codes.items()
        for function in re.findall(r"local function (\w+)", code)
        if len(re.findall(rf"\b{function}\b", code)) == 1
    ]


def counting(script: Script) -> str:
    """Return a script that stores the number of its calls of Redis commands in the key `calls`."""
    return f"""
local calls, server = 0, redis
local redis = {{
  call = function(...) calls = calls + 1; return server.call(...) end,
  pcall = function(...) calls = calls + 1; return server.pcall(...) end,
}}
local function run()
{script}
end
local reply = run()
server.call('SET', 'calls', calls)
return reply
"""


async def run(group: Group, script: Script, *arguments: Any, keys: list[str] = KEYS) -> int:
    """Run a script for the consumer `pod-a`. Returns the number of its calls."""
    await group.manager().execute("EVAL", counting(script), len(keys), *keys, GROUP, "pod-a", *arguments)
    return int(await group.client.get("calls") or 0)


async def read(group: Group, count: int, consumer: str = "pod-a") -> list[str]:
    await group.create_group()
    await group.add(count)
    return await group.read_as(consumer, count)


async def lose_group(group: Group) -> None:
    await group.client.xgroup_destroy(STREAM, GROUP)
    await group.client.xgroup_create(STREAM, GROUP, "$")


async def postpone_all(group: Group, ids: list[str]) -> None:
    await group.client.zadd(KEYS[1], dict.fromkeys(ids, 0))
    await group.client.xclaim(STREAM, GROUP, "~postponed", 0, [*ids], justid=True)


async def renew(group: Group) -> int:
    ids = await read(group, leases.RENEWAL_PAGE_SIZE)
    await lose_group(group)
    return await run(group, leases.RENEW, *ids)


async def postpone(group: Group) -> int:
    ids = await read(group, leases.PAGE_SIZE)
    await lose_group(group)
    flat = (part for message_id in ids for part in (message_id, 1, 1000))
    return await run(group, leases.POSTPONE, *flat, keys=SNAPSHOT_KEYS)


async def set_counts(group: Group) -> int:
    ids = await read(group, leases.PAGE_SIZE)
    await lose_group(group)
    return await run(group, leases.SET_DELIVERY_COUNTS, *(part for message_id in ids for part in (message_id, 1)))


async def repair(group: Group) -> int:
    ids = await read(group, 1000)
    await postpone_all(group, ids)
    await group.client.delete(KEYS[1])
    return await run(group, leases.REPAIR_SCHEDULE, 0, "")


async def claim(group: Group) -> int:
    ids = await read(group, pending_entries.PAGE_SIZE, "dead")
    flat = [part for message_id in ids for part in (message_id, 1)]
    registration, run_id = "1 x", (await group.client.info("server"))["run_id"]
    await group.client.hset(REGISTRATIONS, "dead", registration)
    arguments = (0, "dead", registration, run_id, 10**9, 10**9, 10**9)
    return await run(group, pending_entries.CLAIM, *arguments, *flat, keys=[*KEYS, REGISTRATIONS])


async def claim_due(group: Group) -> int:
    ids = await read(group, 2 * pending_entries.MAX_DUE)
    await postpone_all(group, ids)
    return await run(group, pending_entries.CLAIM_DUE, pending_entries.MAX_DUE, 10**9, 10**9, 10**9, keys=SNAPSHOT_KEYS)


async def claim_due_of_a_lost_group(group: Group) -> int:
    ids = await read(group, 2 * pending_entries.MAX_DUE)
    await postpone_all(group, ids)
    await lose_group(group)
    return await run(group, pending_entries.CLAIM_DUE, pending_entries.MAX_DUE, 10**9, 10**9, 10**9, keys=SNAPSHOT_KEYS)


async def save(group: Group) -> int:
    await group.create_group()
    await group.client.xgroup_createconsumer(STREAM, GROUP, "~postponed")
    await group.add(900)
    for number in range(900):
        await group.read_as(f"pod-{number}", 1)
    return await run(group, group_snapshot.SAVE, keys=SNAPSHOT_KEYS)


async def restore(group: Group) -> int:
    await read(group, 5)
    await group_snapshot.GroupSnapshot(group.manager().execute, STREAM, GROUP, "pod-a").save()
    await group.add(2000)
    *_, last = await group.read_as("pod-a", 2000)
    for key in KEYS[2:4]:
        await group.client.hset(key, mapping={f"{2 * 10**12 + number}-0": "pod-b" for number in range(5000)})
    await group.client.xgroup_destroy(STREAM, GROUP)
    return await run(group, group_snapshot.RESTORE_GROUP, last, "0", keys=SNAPSHOT_KEYS)


async def restore_delivered(group: Group) -> int:
    await read(group, 5)
    snapshot = group_snapshot.GroupSnapshot(group.manager().execute, STREAM, GROUP, "pod-a")
    await snapshot.save()
    await group.add(800)
    *_, last = await group.read_as("pod-a", 800)
    await group.client.xgroup_destroy(STREAM, GROUP)
    await snapshot.restore_group(last, "0")
    return await run(group, group_snapshot.RESTORE_ENTRIES, keys=SNAPSHOT_KEYS)


async def restore_schedule(group: Group) -> int:
    """ZSCAN returns all members of a small sorted set."""
    ids = await read(group, 120)
    await postpone_all(group, ids)
    await group.client.xgroup_destroy(STREAM, GROUP)
    snapshot = group_snapshot.GroupSnapshot(group.manager().execute, STREAM, GROUP, "pod-a")
    await snapshot.restore_group("0-0", "0")
    await group.client.hset(SNAPSHOT_KEYS[-1], mapping={"stage": "schedule", "cursor": 0})
    return await run(group, group_snapshot.RESTORE_ENTRIES, keys=SNAPSHOT_KEYS)


async def commit(group: Group) -> int:
    [message_id] = await read(group, 1)
    effects = Effects()
    for number in range(MAX_EFFECTS):
        effects.increment(f"count-{number}")
    keys = [*KEYS, *(operation.key.decode() for operation in effects.operations)]
    await group.client.mset(dict.fromkeys(keys[len(KEYS) :], 1))
    flat: list[Any] = []
    for index, (command, _, words) in enumerate(effects.operations, len(KEYS) + 1):
        flat += [command, index, len(words), *words]
    return await run(group, COMMIT, message_id, *flat, keys=keys)


async def bounds(group: Group) -> int:
    for number in range(MAX_GROUPS):
        await group.client.xgroup_create(STREAM, f"group-{number}", mkstream=True)
    return await run(group, GROUP_BOUNDS)


WORST_CASES = (
    *(renew, postpone, set_counts, repair, claim, claim_due, claim_due_of_a_lost_group),
    *(save, restore, restore_delivered, restore_schedule, commit, bounds),
)


@ON_ONE_SERVER
@pytest.mark.parametrize("worst_case", WORST_CASES, ids=lambda each: each.__name__)
async def test_a_script_makes_at_most_a_thousand_calls(
    any_group: Group, worst_case: Callable[[Group], Awaitable[int]]
) -> None:
    assert 100 < await worst_case(any_group) <= MAX_CALLS
