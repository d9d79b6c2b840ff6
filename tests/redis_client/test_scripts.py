"""Scripts that read a stream: small replies from streams with many groups, many consumers and large entries."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import (
    COUNT_AFTER,
    LAST_GENERATED_ID,
    LIST_CONSUMERS,
    LIST_PENDING,
    PROBE_GROUP,
)
from tests.processor.group import Group

MANY = 2000
LONG_NAME = "x" * 100_000


async def evaluate(execute: Execute, script: str, *keys_and_arguments: Any, keys: int = 1) -> Any:
    return await execute("EVAL", script, keys, *keys_and_arguments)


@pytest.fixture
async def crowded(any_group: Group) -> Group:
    """A stream with many groups and many consumers with long names, each with a pending entry, and large entries."""
    await any_group.client.xgroup_create("s", "g", "0", mkstream=True)
    pipeline = any_group.client.pipeline(transaction=False)
    for number in range(MANY):
        pipeline.execute_command("XGROUP", "CREATE", "s", f"{number}-{'y' * 200}", "0")
        pipeline.execute_command("XADD", "s", f"{number + 1}-0", "f", "v" * (1_000_000 if number == MANY - 1 else 10))
        name = LONG_NAME if number == 0 else f"orders-consumer-abc-{number:05}"
        pipeline.execute_command("XREADGROUP", "GROUP", "g", name, "COUNT", 1, "STREAMS", "s", ">")
    pipeline.execute_command("XGROUP", "CREATECONSUMER", "s", "g", "~postponed")
    await pipeline.execute()
    return any_group


async def test_probe_of_a_crowded_stream_is_small(crowded: Group) -> None:
    execute = crowded.manager().execute
    group, length, pending = await evaluate(execute, PROBE_GROUP, "s", "g", "~postponed", 500)
    assert group[:3] == [MANY, MANY + 1, b"%d-0" % MANY]
    assert length == MANY
    oldest, owned, names = pending
    assert (oldest, owned) == (b"1-0", MANY)
    assert len(names.split(b" ")) == 2 * 500
    assert len(names) < 500 * 70


async def test_probe_reports_each_part_that_fails(any_group: Group) -> None:
    execute = any_group.manager().execute
    group, length, pending = await evaluate(execute, PROBE_GROUP, "s", "g", "~postponed", 500)
    assert isinstance(group, ResponseError)
    assert "no such key" in str(group)
    assert not str(group).startswith("@user_script")
    assert (length, pending) == (0, None)
    await any_group.client.set("text", "x")
    group, length, _ = await evaluate(execute, PROBE_GROUP, "text", "g", "~postponed", 500)
    assert str(group).startswith("WRONGTYPE")
    assert str(length).startswith("WRONGTYPE")


async def test_lists_for_the_status_are_short(crowded: Group) -> None:
    execute = crowded.manager().execute
    consumers = await evaluate(execute, LIST_CONSUMERS, "s", "g", 100)
    assert len(consumers) == 100
    assert {len(name) for name, *_ in consumers} <= {25, 256}
    pending = await evaluate(execute, LIST_PENDING, "s", "g", 5)
    assert [line[0] for line in pending] == [b"%d-0" % number for number in range(1, 6)]
    assert len(pending[0][1]) == 256


async def test_last_id_is_read_without_the_entry(crowded: Group) -> None:
    assert await evaluate(crowded.manager().execute, LAST_GENERATED_ID, "s") == b"%d-0" % MANY


async def test_entries_are_counted_exactly_up_to_the_limit(crowded: Group) -> None:
    execute = crowded.manager().execute
    counts = [
        await evaluate(execute, COUNT_AFTER, "s", f"{after}-0", 1500) for after in (0, MANY - 1500, MANY - 3, MANY)
    ]
    assert counts == [1500, 1500, 3, 0]


async def test_count_of_large_entries_stops_early(any_group: Group) -> None:
    for number in range(1, 41):
        await any_group.client.xadd("s", {"f": "v" * 1_000_000}, id=f"{number}-0")
    assert await evaluate(any_group.manager().execute, COUNT_AFTER, "s", "0-0", 10_000) == 10_000
    assert await evaluate(any_group.manager().execute, COUNT_AFTER, "s", "35-0", 10_000) == 5
