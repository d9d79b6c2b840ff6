"""Scripts that claim entries of other consumers and postponed entries that are due."""

from typing import Any

import pytest

from streamconsumer.processor.consumer import pending_entries
from streamconsumer.processor.consumer.large_entries import MAX_NAME_BYTES, MAX_NAMES_BYTES
from streamconsumer.processor.consumer.memory_limit import VALUE_BYTES
from streamconsumer.redis_client.keys import CLAIM_HASH_SIZE, CLAIM_SECONDS
from tests.redis_client.script_database import (
    CLAIMED,
    CLAIMED_BEFORE,
    COMMITTED,
    FUTURE,
    GROUP,
    KEYS,
    ME,
    PEER,
    POSTPONED,
    REGISTRATIONS,
    SCHEDULE,
    SNAPSHOT,
    SNAPSHOT_KEYS,
    STREAM,
    Database,
)

MANY = 10**9
"""Limit that no test reaches."""


def claim(
    database: Database,
    *ids: str,
    min_idle: int = 30_000,
    evidence: tuple[str, str] = ("", ""),
    limit: int = MANY,
    page_bytes: int = MANY,
    entry_bytes: int = MANY,
) -> Any:
    """Claim entries of `PEER` with the delivery count 7."""
    pairs = (part for message_id in ids for part in (message_id, 7))
    arguments = (min_idle, PEER, *evidence, limit, page_bytes, entry_bytes, *pairs)
    return database.run(pending_entries.CLAIM, *arguments, keys=[*KEYS, REGISTRATIONS])


def claim_due(
    database: Database, examined: int = 100, limit: int = MANY, page_bytes: int = MANY, entry_bytes: int = MANY
) -> Any:
    return database.run(pending_entries.CLAIM_DUE, examined, limit, page_bytes, entry_bytes, keys=SNAPSHOT_KEYS)


def fields(message_id: str) -> list[str]:
    return ["n", message_id]


# -- claims from another consumer --------------------------------------------------------------------------------------


def test_only_idle_entries_of_the_given_owner_are_claimed(database: Database) -> None:
    database.add("1-0", "2-0", "3-0", "4-0", "5-0", "6-0")
    database.deliver(PEER, "1-0")
    database.deliver(PEER, "2-0", idle=0)
    database.deliver("other", "3-0")
    database.deliver(POSTPONED, "4-0")
    database.deliver(PEER, "5-0", "6-0", deliveries=4)
    reply = claim(database, "1-0", "2-0", "3-0", "4-0", "5-0", "9-0")
    assert reply == [6, 0, [["1-0", "7", fields("1-0")], ["5-0", "7", fields("5-0")]]]
    assert database.pending() == {
        "1-0": (ME, 7),
        "2-0": (PEER, 1),
        "3-0": ("other", 1),
        "4-0": (POSTPONED, 1),
        "5-0": (ME, 7),
        "6-0": (PEER, 4),
    }
    assert database.client.hgetall(CLAIMED) == {"1-0": ME, "5-0": ME}
    assert 0 < database.client.ttl(CLAIMED) <= CLAIM_SECONDS


def test_a_claimed_entry_is_no_longer_due(database: Database) -> None:
    """Another program has claimed entries while they were postponed."""
    database.add("1-0", "2-0", "3-0")
    database.deliver(PEER, "1-0", "2-0", "3-0")
    database.client.zadd(SCHEDULE, {"1-0": 5, "2-0": -7})
    assert claim(database, "1-0", "2-0", "3-0")[0] == 3
    assert database.schedule() == {"1-0": -1, "2-0": -7}


def test_an_entry_is_claimed_after_exactly_the_minimum_idle_time(database: Database) -> None:
    database.add("1-0")
    database.deliver(PEER, "1-0", idle=0)
    assert claim(database, "1-0", min_idle=0)[2] == [["1-0", "7", fields("1-0")]]


def test_an_own_entry_is_claimed_again_whatever_its_idle_time(database: Database) -> None:
    database.add("1-0", "2-0")
    database.deliver(ME, "1-0", "2-0", idle=0)
    database.client.xdel(STREAM, "2-0")
    assert claim(database, "1-0", "2-0") == [2, 1, [["1-0", "7", fields("1-0")]]]
    assert database.pending() == {"1-0": (ME, 7)}
    assert not database.client.exists(CLAIMED)


def test_a_trimmed_entry_is_acknowledged_instead_of_claimed(database: Database) -> None:
    database.add("1-0", "2-0", "3-0")
    database.deliver(PEER, "1-0", "2-0", "3-0")
    database.client.xdel(STREAM, "1-0", "2-0")
    assert claim(database, "1-0", "3-0") == [2, 1, [["3-0", "7", fields("3-0")]]]
    assert set(database.pending()) == {"2-0", "3-0"}


@pytest.mark.parametrize(
    ("stored", "evidence", "is_claimed"),
    [
        ("1 x", ("1 x", "the run id"), True),
        ("1 y", ("1 x", "the run id"), False),
        ("", ("1 x", "the run id"), False),
        ("1 x", ("1 x", "another run id"), False),
        ("1 y", ("", ""), True),
        ("1 y", ("", "another run id"), True),
    ],
)
def test_entries_are_claimed_only_while_the_evidence_holds(
    database: Database, stored: str, evidence: tuple[str, str], is_claimed: bool
) -> None:
    database.add("1-0")
    database.deliver(PEER, "1-0")
    if stored:
        database.client.hset(REGISTRATIONS, PEER, stored)
    run_id = str(database.client.info("server")["run_id"])
    found = claim(database, "1-0", evidence=(evidence[0], evidence[1].replace("the run id", run_id)))
    assert found == ([1, 0, [["1-0", "7", fields("1-0")]]] if is_claimed else [0, 0, []])
    assert database.pending()["1-0"] == ((ME, 7) if is_claimed else (PEER, 1))


def test_nothing_is_claimed_if_the_server_refuses_its_run_id(database: Database) -> None:
    database.add("1-0")
    database.deliver(PEER, "1-0")
    database.client.hset(REGISTRATIONS, PEER, "1 x")
    database.command("ACL", "SETUSER", "default", "-info")
    assert claim(database, "1-0", evidence=("1 x", "")) == [0, 0, []]


def test_a_claim_ends_at_its_limits(database: Database) -> None:
    ids = ("1-0", "2-0", "3-0")
    database.add(*ids)
    database.deliver(PEER, *ids)
    [examined, _, entries] = claim(database, *ids, limit=2)
    assert (examined, [entry[0] for entry in entries]) == (2, ["1-0", "2-0"])
    assert database.owned() == {ME: ["1-0", "2-0"], PEER: ["3-0"]}


SIZE = len("n") + len("1-0") + 2 * VALUE_BYTES
"""Size of an entry of `Database.add` in a reply."""


@pytest.mark.parametrize(
    ("page_bytes", "count"), [(1, 1), (2 * SIZE - 1, 1), (2 * SIZE, 2), (3 * SIZE - 1, 2), (3 * SIZE, 3)]
)
def test_the_size_of_all_claimed_entries_is_limited(database: Database, page_bytes: int, count: int) -> None:
    ids = ["1-0", "2-0", "3-0"]
    database.add(*ids)
    database.deliver(PEER, *ids)
    [examined, _, entries] = claim(database, *ids, page_bytes=page_bytes)
    assert (examined, [entry[0] for entry in entries]) == (count, ids[:count])
    assert database.owned().get(PEER, []) == ids[count:]
    database.client.zadd(SCHEDULE, dict.fromkeys(ids, 0))
    database.deliver(POSTPONED, *ids)
    [_, entries, done] = claim_due(database, page_bytes=page_bytes)
    assert (done, [entry[0] for entry in entries]) == (count, ids[:count])
    assert database.owned().get(POSTPONED, []) == ids[count:]


# -- large entries -----------------------------------------------------------------------------------------------------

MARKS = [
    "streamconsumer.replayed-from",
    "a",
    "streamconsumer.replayed-of",
    "b" * 2000,
    "streamconsumer.replayed-for",
    "c",
]
LONG = "n" * (MAX_NAME_BYTES + 1)


@pytest.mark.parametrize(
    ("stored", "described"),
    [
        (["a", "1", "bb", "22"], ["a", "1", "bb", "2"]),
        ([LONG, "x"], [LONG[:-1], "1"]),
        (["a", "xyz", *MARKS], ["a", "3", *(part[:MAX_NAME_BYTES] for part in MARKS)]),
        (MARKS, [part if index % 2 == 0 else str(len(part)) for index, part in enumerate(MARKS)]),
        (["a", "1", "b", "2", "c", "3", "d", "4"], ["a", "1", "b", "1", "c", "1", "d", "1"]),
    ],
    ids=["values", "long name", "replay marks", "only marks", "many fields"],
)
def test_a_large_entry_is_described_instead_of_returned(
    database: Database, stored: list[str], described: list[str]
) -> None:
    database.command("XADD", STREAM, "1-0", *stored)
    database.create_group()
    database.deliver(PEER, "1-0")
    size = sum(map(len, stored))
    entry_bytes = size + len(stored) * VALUE_BYTES
    assert claim(database, "1-0", entry_bytes=entry_bytes)[2] == [["1-0", "7", stored]]
    expected = ["1-0", "7", described, size, len(stored) // 2]
    assert claim(database, "1-0", entry_bytes=entry_bytes - 1)[2] == [expected]


def test_the_names_of_a_large_entry_are_limited_together(database: Database) -> None:
    names = [f"{number:03}{LONG}" for number in range(100)]
    database.command("XADD", STREAM, "1-0", *(part for name in names for part in (name, "")))
    database.add("2-0")
    database.deliver(PEER, "1-0", "2-0")
    [_, _, [[_, _, described, size, count], _]] = claim(database, "1-0", "2-0", entry_bytes=100)
    assert (size, count) == (sum(map(len, names)), 100)
    assert described == [part for name in names[:63] for part in (name[:MAX_NAME_BYTES], "0")]


@pytest.mark.parametrize(("missing", "count"), [(0, 2), (1, 1)])
def test_a_description_needs_a_fixed_part_of_the_page(database: Database, missing: int, count: int) -> None:
    large = {"n": "x" * 200}
    database.add("1-0")
    database.add("2-0", fields=large)
    database.deliver(PEER, "1-0", "2-0")
    page_bytes = SIZE + MAX_NAMES_BYTES - missing
    assert len(claim(database, "1-0", "2-0", page_bytes=page_bytes, entry_bytes=200)[2]) == count


# -- records of claims -------------------------------------------------------------------------------------------------


def test_a_claim_needs_few_commands_and_causes_no_errors(database: Database) -> None:
    ids = ["1-0", "2-0", "3-0"]
    database.add(*ids)
    database.deliver(PEER, *ids)
    pairs = (part for message_id in ids for part in (message_id, 7))
    arguments = (0, PEER, "", "", MANY, MANY, MANY)
    keys = [*KEYS, REGISTRATIONS]
    per_entry, for_the_record = len(["XPENDING", "XRANGE", "XCLAIM", "ZADD"]), len(["XINFO", "HSET", "EXPIRE", "HLEN"])
    assert database.calls(pending_entries.CLAIM, *arguments, *pairs, keys=keys) == 3 * per_entry + for_the_record
    assert database.calls(pending_entries.CLAIM, *arguments, keys=keys) == 0
    assert database.client.info("errorstats") == {}


def test_an_entry_that_the_group_will_deliver_again_is_not_recorded(database: Database) -> None:
    database.add("1-0", "2-0")
    database.deliver(PEER, "1-0", "2-0")
    database.command("XGROUP", "SETID", STREAM, GROUP, "1-0")
    claim(database, "1-0", "2-0")
    assert database.client.hgetall(CLAIMED) == {"1-0": ME}


def test_an_unusable_record_does_not_prevent_a_claim(database: Database) -> None:
    database.add("1-0")
    database.deliver(PEER, "1-0")
    database.client.set(CLAIMED, "text")
    assert len(claim(database, "1-0")[2]) == 1
    assert database.client.get(CLAIMED) == "text"


@pytest.mark.parametrize(("before", "is_full"), [(CLAIM_HASH_SIZE - 2, False), (CLAIM_HASH_SIZE - 1, True)])
def test_a_full_record_is_replaced(database: Database, before: int, is_full: bool) -> None:
    database.add("9999-0")
    database.deliver(PEER, "9999-0")
    database.fill(CLAIMED, before)
    claim(database, "9999-0")
    full, current = (CLAIMED_BEFORE, CLAIMED) if is_full else (CLAIMED, CLAIMED_BEFORE)
    assert database.client.hlen(full) == before + 1
    assert not database.client.exists(current)


# -- due entries -------------------------------------------------------------------------------------------------------


def test_due_entries_are_claimed(database: Database) -> None:
    database.add("1-0", "2-0", "3-0", "4-0")
    database.deliver(POSTPONED, "1-0", "2-0", "3-0", "4-0", deliveries=3)
    database.client.zadd(SCHEDULE, {"1-0": 5, "2-0": FUTURE, "3-0": -5, "4-0": 0.5})
    assert claim_due(database) == [0, [["4-0", 3, fields("4-0")], ["1-0", 3, fields("1-0")]], 2]
    assert database.owned() == {ME: ["1-0", "4-0"], POSTPONED: ["2-0", "3-0"]}
    assert set(database.pending().values()) == {(ME, 3), (POSTPONED, 3)}
    assert database.idle() == {"2-0", "3-0"}
    assert database.schedule() == {"1-0": -1, "2-0": FUTURE, "3-0": -5, "4-0": -1}
    assert database.client.hgetall(CLAIMED) == {"1-0": ME, "4-0": ME}


def test_the_number_of_examined_and_of_claimed_due_entries_is_limited(database: Database) -> None:
    database.add("1-0", "2-0", "3-0")
    database.deliver(POSTPONED, "1-0", "2-0", "3-0")
    database.client.zadd(SCHEDULE, {"1-0": 1, "2-0": 2, "3-0": 3})
    [_, entries, done] = claim_due(database, limit=1)
    assert ([entry[0] for entry in entries], done) == (["1-0"], 1)
    [_, entries, done] = claim_due(database, examined=1)
    assert ([entry[0] for entry in entries], done) == (["2-0"], 1)


def pending_with_peer(database: Database) -> None:
    database.deliver(PEER, "5-0")


def orphaned(database: Database) -> None:
    database.deliver(PEER, "5-0")
    database.command("XACK", STREAM, GROUP, "5-0")


def not_delivered(database: Database) -> None:
    """The group was restored at a position before the entry."""


def postponed_and_trimmed(database: Database) -> None:
    database.deliver(POSTPONED, "5-0")
    database.client.xdel(STREAM, "5-0")


def orphaned_and_trimmed(database: Database) -> None:
    orphaned(database)
    database.client.xdel(STREAM, "5-0")


KEPT, REMOVED, CLAIMED_NOW = "kept", "removed", "claimed"


@pytest.mark.parametrize("is_restoring", [False, True], ids=["restored", "restoring"])
@pytest.mark.parametrize(
    ("state", "score", "trimmed", "expected"),
    [
        (pending_with_peer, 1, 0, CLAIMED_NOW),
        (orphaned, 1, 0, REMOVED),
        (orphaned, 1.5, 0, REMOVED),
        (not_delivered, 1, 0, REMOVED),
        (postponed_and_trimmed, 1, 1, REMOVED),
        (postponed_and_trimmed, 1.5, 1, REMOVED),
        (orphaned_and_trimmed, 1, 1, REMOVED),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_due_entries_that_are_not_postponed(
    database: Database, state: Any, score: float, trimmed: int, expected: str, *, is_restoring: bool
) -> None:
    database.add("4-0", "5-0", "6-0")
    database.deliver(PEER, "4-0")
    state(database)
    database.client.xgroup_createconsumer(STREAM, GROUP, POSTPONED)
    database.client.zadd(SCHEDULE, {"5-0": score})
    if is_restoring:
        database.client.hset(SNAPSHOT, "stage", "pending")
        if (state, score) == (orphaned, 1):
            expected = CLAIMED_NOW
        elif expected == REMOVED and not trimmed:
            expected = KEPT
    is_claimed = state is orphaned and expected == CLAIMED_NOW
    entries = [["5-0", 0, fields("5-0")]] if is_claimed else []
    assert claim_due(database) == [trimmed, entries, 0 if expected == KEPT else 1]
    found = database.schedule().get("5-0")
    assert {KEPT: found == score, REMOVED: found is None, CLAIMED_NOW: found is not None and found < 0}[expected]
    owner = {pending_with_peer: (PEER, 1), orphaned: (ME, 0) if is_claimed else None}.get(state)
    assert database.pending() == {"4-0": (PEER, 1)} | ({"5-0": owner} if owner else {})


def test_a_due_entry_whose_dead_letter_is_written_is_not_claimed(database: Database) -> None:
    database.add("5-0")
    orphaned(database)
    database.client.zadd(SCHEDULE, {"5-0": 1})
    database.client.zadd(COMMITTED, {"5-0": 1})
    assert claim_due(database) == [0, [], 1]
    assert not database.schedule()


@pytest.mark.parametrize(
    ("member", "is_valid"),
    [
        *[(text, False) for text in ("", "x", "5", "5-", "-5", "5-0 ", " 5-0", "5-0-0", "5-x", "x-5")],
        *[
            (text, False)
            for text in ("18446744073709551616-0", "0-18446744073709551616", f"1{'0' * 20}-0", f"0-1{'0' * 20}")
        ],
        *[(text, True) for text in ("18446744073709551615-18446744073709551615", "9999999999999999999-0")],
    ],
)
def test_only_ids_stay_in_the_schedule_while_a_group_is_restored(
    database: Database, member: str, is_valid: bool
) -> None:
    database.add("5-0")
    database.client.hset(SNAPSHOT, "stage", "pending")
    database.client.zadd(SCHEDULE, {member: 1})
    assert claim_due(database) == [0, [], 0 if is_valid else 1]
    assert (member in database.schedule()) == is_valid


LARGE = 9007199254740993  # not exact as a floating-point number


@pytest.mark.parametrize(
    ("message_id", "is_delivered"),
    [
        *[(message_id, True) for message_id in ("1-5", "9-99", "10-4", "10-5", "9-100")],
        *[(message_id, False) for message_id in ("10-6", "10-10", "11-0", "100-0", f"{LARGE}-0")],
    ],
)
def test_an_orphaned_entry_is_claimed_only_if_the_group_has_delivered_it(
    database: Database, message_id: str, is_delivered: bool
) -> None:
    database.add(message_id)
    database.command("XGROUP", "SETID", STREAM, GROUP, "10-5")
    database.client.zadd(SCHEDULE, {message_id: 1})
    database.client.hset(SNAPSHOT, "stage", "pending")
    assert len(claim_due(database)[1]) == is_delivered


def test_a_postponed_entry_that_a_consumer_reads_again_and_acknowledges_is_not_claimed(database: Database) -> None:
    database.add("5-0")
    database.deliver(POSTPONED, "5-0")
    database.client.zadd(SCHEDULE, {"5-0": 1})
    database.command("XGROUP", "SETID", STREAM, GROUP, "0")
    database.command("XREADGROUP", "GROUP", GROUP, PEER, "STREAMS", STREAM, ">")
    database.command("XACK", STREAM, GROUP, "5-0")
    assert claim_due(database) == [0, [], 1]
    assert not database.schedule()


def test_ids_are_compared_exactly(database: Database) -> None:
    database.add(f"{LARGE}-0")
    database.command("XGROUP", "SETID", STREAM, GROUP, f"{LARGE - 1}-0")
    database.client.zadd(SCHEDULE, {f"{LARGE}-0": 1})
    database.client.hset(SNAPSHOT, "stage", "pending")
    assert claim_due(database)[1] == []


def test_a_server_without_free_memory_keeps_claimed_entries_in_the_schedule_until_the_next_snapshot(
    database: Database,
) -> None:
    database.add("1-0", "2-0")
    database.deliver(POSTPONED, "1-0")
    database.deliver(PEER, "2-0")
    database.client.zadd(SCHEDULE, {"1-0": 1, "2-0": FUTURE})
    database.client.config_set("maxmemory", 1)
    [_, entries, done] = claim_due(database)
    assert ([entry[0] for entry in entries], done) == (["1-0"], 1)
    assert database.schedule()["1-0"] < 0


def test_a_server_without_free_memory_removes_entries_of_other_consumers_from_the_schedule(database: Database) -> None:
    database.add("1-0", "2-0")
    database.deliver(PEER, "1-0")
    database.client.zadd(SCHEDULE, {"1-0": 1, "2-0": FUTURE})
    database.client.config_set("maxmemory", 1)
    assert claim_due(database)[1] == []
    assert database.schedule() == {"2-0": FUTURE}
