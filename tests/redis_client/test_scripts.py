"""Scripts that read a stream: small replies from streams with many groups, many consumers and large entries."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.processor.consumer.retention import GROUP_BOUNDS, MAX_GROUPS
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import (
    COUNT_AFTER,
    FIND_GROUP,
    LAST_GENERATED_ID,
    LIST_CONSUMERS,
    LIST_GROUPS,
    LIST_PENDING,
    MAX_CONSUMERS,
    PROBE_GROUP,
)
from tests.processor.group import Group
from tests.redis_client.script_database import GROUP, ME, PEER, POSTPONED, STREAM, Database

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


# -- replies in detail -------------------------------------------------------------------------------------------------


def probe(database: Database, names: int = 500) -> Any:
    return database.run(PROBE_GROUP, GROUP, POSTPONED, names, keys=[STREAM], me=())


def test_probe_returns_group_length_and_owners(database: Database) -> None:
    database.add(*(f"{number}-0" for number in range(1, 10)))
    assert probe(database) == [[0, 1, "0-0", -1, 9], 9, [None, 0, ""]]
    database.command("XREADGROUP", "GROUP", GROUP, ME, "COUNT", 2, "NOACK", "STREAMS", STREAM, ">")
    assert probe(database)[0] == [0, 2, "2-0", 2, 7]
    names = ["a.b-0", "x" * 63, "X", "x" * 64, "a_b", "-"]
    for number, name in enumerate(names, 2):
        database.deliver(name, f"{number}-0")
    database.deliver(POSTPONED, "1-0")
    group, length, (oldest, owned, owners) = probe(database)
    assert (group[:3], length, oldest, owned) == ([7, 8, "7-0"], 9, "1-0", 6)
    assert dict(zip(owners.split()[::2], owners.split()[1::2], strict=True)) == {names[0]: "1", names[1]: "1", "-": "1"}
    assert len(probe(database, names=2)[2][2].split()) == 4
    assert probe(database, names=0)[2] == ["1-0", 6, ""]


def test_probe_returns_minus_one_for_an_unknown_number(database: Database) -> None:
    database.client.xadd(STREAM, {"n": "1"}, id="1-0")
    database.client.xadd(STREAM, {"n": "2"}, id="2-0")
    database.client.xadd(STREAM, {"n": "3"}, id="3-0")
    database.client.xdel(STREAM, "2-0")
    database.create_group("1-0")
    assert probe(database)[0] == [0, 1, "1-0", -1, -1]


def test_probe_of_a_missing_group_is_empty(database: Database) -> None:
    database.client.xadd(STREAM, {"n": "1"})
    assert probe(database) == [None, 1, None]


def test_probe_of_a_crowded_group_counts_all_pending_entries(database: Database) -> None:
    database.add("1-0", "2-0", "3-0")
    database.create_consumers(MAX_CONSUMERS)
    assert probe(database)[2] == [None, 0, ""]
    database.deliver(POSTPONED, "2-0")
    database.deliver(PEER, "3-0")
    group, length, pending = probe(database)
    assert (group[:3], length, pending) == ([2, MAX_CONSUMERS + 2, "3-0"], 3, ["2-0", 2, ""])


@pytest.mark.parametrize("consumers", [0, MAX_CONSUMERS])
def test_probe_without_permission_for_pending_entries_returns_the_other_parts(
    database: Database, consumers: int
) -> None:
    database.add("1-0")
    database.create_consumers(consumers)
    database.command("ACL", "SETUSER", "default", "-xpending")
    group, length, pending = probe(database)
    assert (group[:3], length) == ([0, consumers + 1, "0-0"], 1)
    assert isinstance(pending, ResponseError)


def test_group_is_found_with_its_position(database: Database) -> None:
    def find() -> Any:
        return database.run(FIND_GROUP, GROUP, keys=[STREAM], me=())

    with pytest.raises(ResponseError, match="no such key"):
        find()
    database.client.xgroup_create(STREAM, "other", "0", mkstream=True)
    assert find() is None
    database.add("1-0", "2-0")
    database.deliver(ME, "2-0")
    assert find() == ["2-0", 2]


def test_groups_are_listed_up_to_a_limit(database: Database) -> None:
    def list_groups(limit: int) -> Any:
        return database.run(LIST_GROUPS, GROUP, limit, keys=[STREAM], me=())

    with pytest.raises(ResponseError, match="no such key"):
        list_groups(1)
    long = "a" * 300
    for name in (long, "b", "c"):
        database.client.xgroup_create(STREAM, name, "0", mkstream=True)
    assert list_groups(10) == [0, 3, [long[:256], "b", "c"]]
    database.create_group()
    assert list_groups(2) == [1, 4, [long[:256], "b"]]


def test_consumers_with_the_most_entries_are_listed_first(database: Database) -> None:
    def list_consumers(limit: int) -> Any:
        return database.run(LIST_CONSUMERS, GROUP, limit, keys=[STREAM], me=())

    with pytest.raises(ResponseError, match="no such key"):
        list_consumers(1)
    database.client.xadd(STREAM, {"n": "1"}, id="1-0")
    with pytest.raises(ResponseError, match=r"^NOGROUP"):
        list_consumers(1)
    database.add(*(f"{number}-0" for number in range(2, 8)))
    for owner, *ids in (("few", "1-0"), ("most", "2-0", "3-0", "4-0"), (LONG_NAME, "5-0", "6-0")):
        database.deliver(owner, *ids)
    lines = list_consumers(3)
    assert [(name, pending) for name, pending, _ in lines] == [("most", 3), (LONG_NAME[:256], 2), ("few", 1)]
    assert all(0 <= idle < 60_000 for _, _, idle in lines)
    assert len(list_consumers(10)) == 4


def test_the_oldest_pending_entries_are_listed(database: Database) -> None:
    def list_pending() -> Any:
        return database.run(LIST_PENDING, GROUP, 2, keys=[STREAM], me=())

    with pytest.raises(ResponseError, match=r"^NOGROUP"):
        list_pending()
    database.add("1-0", "2-0", "3-0")
    database.deliver(LONG_NAME, "1-0", deliveries=3)
    database.deliver(ME, "2-0", "3-0")
    [first, second] = list_pending()
    assert (first[:2], first[3], second[:2]) == (["1-0", LONG_NAME[:256]], 3, ["2-0", ME])
    assert 60_000 <= first[2] < 120_000


def test_entries_are_counted_with_few_commands(database: Database) -> None:
    database.add_many(2000)
    limits = {0: 0, 3: 2, 7: 3, 5000: 11}
    calls = {limit: database.calls(COUNT_AFTER, "0-0", limit, keys=[STREAM], me=()) for limit in limits}
    assert calls == limits


def test_bounds_of_all_groups_are_read(database: Database) -> None:
    def bounds() -> Any:
        return database.run(GROUP_BOUNDS, GROUP, keys=[STREAM], me=())

    with pytest.raises(ResponseError, match="no such key"):
        bounds()
    database.add("1-0", "2-0", "3-0")
    database.deliver(ME, "2-0", "3-0")
    database.client.xgroup_create(STREAM, "other", "1-0")
    assert bounds() == [2, [[1, "3-0", "2-0"], [0, "1-0", ""]]]
    create = "for i = 1, ARGV[1] do redis.call('XGROUP', 'CREATE', KEYS[1], i, '0') end"
    database.client.eval(create, 1, STREAM, MAX_GROUPS - 2)
    assert len(bounds()[1]) == MAX_GROUPS
    database.client.xgroup_create(STREAM, "one more", "0")
    assert bounds() == [MAX_GROUPS + 1, []]


def test_last_generated_id_of_a_missing_stream_is_an_error(database: Database) -> None:
    def last() -> Any:
        return database.run(LAST_GENERATED_ID, keys=[STREAM], me=())

    with pytest.raises(ResponseError, match="no such key"):
        last()
    database.add("5-0")
    database.client.xdel(STREAM, "5-0")
    assert last() == "5-0"
