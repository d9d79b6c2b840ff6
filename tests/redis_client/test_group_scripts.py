"""Scripts that save the state of a group, restore a lost group, and delete a group."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.cli.group import deletion
from streamconsumer.processor.consumer import group_snapshot
from streamconsumer.redis_client.keys import CLAIM_HASH_SIZE
from streamconsumer.redis_client.scripts import MAX_CONSUMERS, MAX_REGISTRATIONS
from tests.redis_client.script_database import (
    CLAIMED,
    CLAIMED_BEFORE,
    COMMITTED,
    FUTURE,
    GROUP,
    KEYS,
    ME,
    MEMBERS,
    PEER,
    POSTPONED,
    REGISTRATIONS,
    SCHEDULE,
    SNAPSHOT,
    SNAPSHOT_KEYS,
    STREAM,
    Database,
)

PAGE = 100
"""Number of entries that one call of the script RESTORE_ENTRIES restores."""


def save(database: Database) -> Any:
    return database.run(group_snapshot.SAVE, keys=SNAPSHOT_KEYS)


def restore_group(database: Database, position: str = "0-0", start: str = "$") -> Any:
    return database.run(group_snapshot.RESTORE_GROUP, position, start, keys=SNAPSHOT_KEYS)


def restore_entries(database: Database) -> Any:
    return database.run(group_snapshot.RESTORE_ENTRIES, keys=SNAPSHOT_KEYS)


def snapshot(database: Database) -> dict[str, str]:
    return dict(database.client.hgetall(SNAPSHOT))


def set_snapshot(database: Database, **fields: Any) -> None:
    database.client.hset(SNAPSHOT, mapping=fields)


def ids(first: int, last: int) -> list[str]:
    return [f"{number}-0" for number in range(first, last + 1)]


# -- saving ------------------------------------------------------------------------------------------------------------


def test_a_snapshot_contains_the_position_and_the_pending_entries(database: Database) -> None:
    database.add(*ids(1, 6))
    database.deliver(ME, "3-0")
    database.deliver(PEER, "1-0", "4-0")
    database.deliver(POSTPONED, "2-0")
    database.client.zadd(SCHEDULE, {"1-0": -5, "2-0": 7, "3-0": 0})
    before = database.now()
    assert save(database) == "saved"
    found = snapshot(database)
    assert sorted(found.pop("pending").split(" ")) == ["1-0", "3-0", "4-0"]
    assert float(found.pop("at")) == pytest.approx(before, abs=5000)
    assert found == {"format": "1", "position": "4-0"}
    assert database.schedule() == {"2-0": 7, "3-0": 0}


def test_a_snapshot_of_a_group_without_pending_entries_is_empty(database: Database) -> None:
    database.add("1-0")
    assert save(database) == "saved"
    assert snapshot(database)["pending"] == ""


@pytest.mark.parametrize(
    ("age", "expected"), [(0, "recent"), (300, "recent"), (900, "saved"), (10**9, "saved"), (-60_000, "saved")]
)
def test_a_snapshot_is_saved_unless_it_is_recent(database: Database, age: int, expected: str) -> None:
    database.add("1-0")
    database.deliver(ME, "1-0")
    at = int(database.now()) - age
    set_snapshot(database, at=at, pending="9-0")
    assert save(database) == expected
    assert snapshot(database)["pending"] == ("9-0" if expected == "recent" else "1-0")


@pytest.mark.parametrize("stored", ["0", "1", "text"])
def test_a_known_format_is_replaced(database: Database, stored: str) -> None:
    database.add("1-0")
    set_snapshot(database, format=stored)
    assert save(database) == "saved"
    assert snapshot(database)["format"] == "1"


def test_a_newer_format_is_an_error(database: Database) -> None:
    database.add("1-0")
    set_snapshot(database, format="2")
    with pytest.raises(ResponseError, match=r"^NEWERFORMAT 2$"):
        save(database)


def test_no_snapshot_is_saved_before_all_entries_are_restored(database: Database) -> None:
    database.add("1-0")
    set_snapshot(database, stage="pending", cursor="7")
    assert save(database) == "restoring"
    assert snapshot(database) == {"stage": "pending", "cursor": "7"}


def test_no_snapshot_of_a_missing_group_is_saved(database: Database) -> None:
    assert save(database) == "skipped"
    database.client.xadd(STREAM, {"n": "1"})
    assert save(database) == "skipped"
    assert not snapshot(database)


def test_a_group_of_another_program_must_be_restored_first(database: Database) -> None:
    database.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    set_snapshot(database, pending="1-0")
    assert save(database) == "restoring"
    assert snapshot(database) == {"pending": "1-0", "stage": "pending", "cursor": "1", "begin": "0-0"}


@pytest.mark.parametrize(("owners", "expected"), [(900, "saved"), (901, "skipped")])
def test_no_snapshot_of_very_many_owners_is_saved(database: Database, owners: int, expected: str) -> None:
    database.add_many(owners, *(f"pod-{number}" for number in range(owners)))
    assert save(database) == expected
    assert ("pending" in snapshot(database)) == (expected == "saved")


@pytest.mark.parametrize(("entries", "expected"), [(10_000, "saved"), (10_001, "skipped")])
def test_no_snapshot_of_very_many_entries_is_saved(database: Database, entries: int, expected: str) -> None:
    database.add_many(entries, "pod-a", "pod-b")
    assert save(database) == expected
    assert len(snapshot(database).get("pending", "").split()) == (entries if expected == "saved" else 0)


@pytest.mark.parametrize(("consumers", "expected"), [(MAX_CONSUMERS - 1, "saved"), (MAX_CONSUMERS, "skipped")])
def test_no_snapshot_of_a_crowded_group_is_saved(database: Database, consumers: int, expected: str) -> None:
    database.create_group()
    database.create_consumers(consumers)
    assert save(database) == expected


# -- recreating a group ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "position", "start", "begin"),
    [
        (None, "0-0", "$", "$"),
        (None, "0-0", "0", "0"),
        (None, "0-0", "2-0", "2-0"),
        (None, "4-0", "$", "4-0"),
        ("text", "0-0", "$", "$"),
        ("3-0", "0-0", "$", "3-0"),
        ("3-0", "2-0", "$", "3-0"),
        ("3-0", "3-0", "$", "3-0"),
        ("3-0", "5-0", "$", "5-0"),
    ],
)
def test_a_lost_group_starts_at_the_greatest_known_position(
    database: Database, saved: str | None, position: str, start: str, begin: str
) -> None:
    database.add(*ids(1, 6))
    database.client.xgroup_destroy(STREAM, GROUP)
    if saved:
        set_snapshot(database, position=saved)
    assert restore_group(database, position, start) == [begin, 0]
    started = database.groups()[GROUP]
    assert started == {"$": "6-0", "0": "0-0"}.get(begin, begin)
    delivered = saved == "3-0" and position == "5-0"
    expected = {"stage": "delivered", "cursor": "3-0"} if delivered else {"stage": "pending", "cursor": "1"}
    expected |= {"until": position, "begin": started} | ({"position": saved} if saved else {})
    assert snapshot(database) == expected
    assert [each["name"] for each in database.client.xinfo_consumers(STREAM, GROUP)] == [POSTPONED]


@pytest.mark.parametrize(
    ("saved", "begin", "stage"),
    [("51-0", "950-0", "delivered"), ("50-0", "50-0", "pending"), ("10-0", "10-0", "pending")],
)
def test_very_many_delivered_entries_are_delivered_again(
    database: Database, saved: str, begin: str, stage: str
) -> None:
    database.add_many(950)
    database.client.xgroup_destroy(STREAM, GROUP)
    set_snapshot(database, position=saved)
    assert restore_group(database, "950-0") == [begin, 0]
    assert snapshot(database)["stage"] == stage


COMPANIONS = {
    "format": "1",
    "at": "1",
    "position": "3-0",
    "pending": "1-0",
    "stage": "x",
    "cursor": "1",
    "until": "2-0",
    "begin": "9-0",
}


@pytest.mark.parametrize(("saved", "position"), [("3-0", "0-0"), ("1-0", "3-0"), (None, "3-0")])
@pytest.mark.parametrize("stream_exists", [True, False])
def test_a_new_stream_is_read_from_its_beginning(
    database: Database, saved: str | None, position: str, stream_exists: bool
) -> None:
    if stream_exists:
        database.client.xadd(STREAM, {"n": "1"}, id="2-0")
    set_snapshot(database, **{**COMPANIONS, "position": saved or "text"})
    for key in (CLAIMED, CLAIMED_BEFORE):
        database.client.hset(key, "1-0", PEER)
    database.client.zadd(COMMITTED, {"1-0": 1})
    assert restore_group(database, position) == ["0-0", 1]
    assert database.groups() == {GROUP: "0-0"}
    assert not database.client.exists(CLAIMED, CLAIMED_BEFORE, COMMITTED)
    assert snapshot(database) == {"format": "1", "stage": "pending", "cursor": "1", "until": "0-0", "begin": "0-0"}


def test_a_group_of_a_new_stream_that_a_peer_has_restored_is_kept(database: Database) -> None:
    database.add("2-0")
    set_snapshot(database, **COMPANIONS)
    assert restore_group(database) == ["0-0", 1]
    assert snapshot(database) == {"format": "1"}


def test_an_existing_group_is_not_changed(database: Database) -> None:
    database.add(*ids(1, 5))
    database.deliver(ME, "2-0")
    set_snapshot(database, position="1-0")
    database.client.hset(CLAIMED, "9-0", PEER)
    assert restore_group(database, "4-0") == ["4-0", 0]
    assert (database.position(), database.pending()) == ("2-0", {"2-0": (ME, 1)})
    assert snapshot(database) == {"position": "1-0"}
    assert database.client.hexists(CLAIMED, "9-0")


def test_a_group_that_cannot_be_created_is_an_error(database: Database) -> None:
    database.client.set(STREAM, "text")
    with pytest.raises(ResponseError, match=r"^WRONGTYPE"):
        restore_group(database)
    database.client.delete(STREAM)
    with pytest.raises(ResponseError, match="Invalid stream ID"):
        restore_group(database, start="text")
    assert not snapshot(database)


@pytest.mark.parametrize(("position", "left"), [("0-0", 0), ("100-0", 99), ("99-1", 99)])
@pytest.mark.parametrize("key", [CLAIMED, CLAIMED_BEFORE])
def test_records_of_claims_after_the_position_are_deleted(
    database: Database, key: str, position: str, left: int
) -> None:
    database.fill(key, 2500)
    database.client.hset(key, mapping={"text": PEER, "9-0-0": PEER})
    database.client.xadd(STREAM, {"n": "1"}, id="200-0")
    restore_group(database, position, "0")
    assert database.client.hlen(key) == left + 2
    assert not database.client.hexists(key, "2000-1")


@pytest.mark.parametrize(("count", "is_deleted"), [(4 * CLAIM_HASH_SIZE, False), (4 * CLAIM_HASH_SIZE + 1, True)])
def test_records_of_claims_above_their_bound_are_deleted(database: Database, count: int, *, is_deleted: bool) -> None:
    database.fill(CLAIMED, count)
    database.client.hset(CLAIMED_BEFORE, "1-1", PEER)
    restore_group(database, "0-0", "30000-0")
    assert database.client.hlen(CLAIMED) == (0 if is_deleted else count)
    assert database.client.hlen(CLAIMED_BEFORE) == 1


def test_records_of_claims_are_kept_if_the_group_starts_at_the_end(database: Database) -> None:
    database.fill(CLAIMED, 10)
    assert restore_group(database) == ["$", 0]
    assert database.client.hlen(CLAIMED) == 10


# -- restoring entries -------------------------------------------------------------------------------------------------


def lost_group(database: Database, *entries: str, **fields: Any) -> None:
    database.add(*entries)
    database.command("XGROUP", "SETID", STREAM, GROUP, entries[-1])
    set_snapshot(database, **fields)


def test_no_entry_is_restored_without_a_lost_group(database: Database) -> None:
    lost_group(database, "1-0", pending="1-0")
    assert restore_entries(database) == 0
    assert database.pending() == {}


def test_entries_that_are_not_pending_become_postponed(database: Database) -> None:
    lost_group(database, *ids(1, 7), stage="pending", cursor=1, pending="1-0 2-0 text 3-0 4-0 9-0", until="x")
    database.deliver(PEER, "2-0")
    database.client.zadd(SCHEDULE, {"2-0": -1, "3-0": 77, "4-0": -5})
    before = database.now()
    assert restore_entries(database) == 1
    assert database.owned() == {POSTPONED: ["1-0", "3-0", "4-0"], PEER: ["2-0"]}
    schedule = database.schedule()
    assert (schedule["2-0"], schedule["3-0"]) == (-1, 77)
    for restored in ("1-0", "4-0"):
        assert schedule[restored] == pytest.approx(before + 1500, abs=1000)
        assert schedule[restored] % 1 == 0.5
    assert "text" not in schedule
    assert snapshot(database) | {"pending": ""} == {"pending": "", "stage": "schedule", "cursor": "0", "until": "x"}


DUE, GRACE_DUE = 77, "after the grace period"


@pytest.mark.parametrize(
    ("begin", "is_trimmed", "owner", "score", "restored"),
    [
        ("3-0", False, None, DUE, (None, None)),
        ("3-0", False, None, None, (None, None)),
        ("3-0", False, PEER, DUE, (PEER, None)),
        ("3-0", False, PEER, -5, (PEER, -5)),
        ("3-0", False, POSTPONED, DUE, (POSTPONED, DUE)),
        ("3-0", True, None, DUE, (None, DUE)),
        ("3-0", True, None, None, (None, GRACE_DUE)),
        ("5-0", False, None, DUE, (POSTPONED, DUE)),
        ("5-0", False, None, None, (POSTPONED, GRACE_DUE)),
        ("5-0", False, PEER, DUE, (PEER, DUE)),
        ("5-0", False, PEER, None, (PEER, None)),
        ("text", False, None, DUE, (POSTPONED, DUE)),
        (None, False, None, DUE, (POSTPONED, DUE)),
    ],
)
def test_entries_that_the_group_delivers_again_are_not_restored(
    database: Database, begin: str | None, *, is_trimmed: bool, owner: str | None, score: int | None, restored: Any
) -> None:
    lost_group(database, *ids(1, 6), stage="pending", cursor=1, pending="5-0", **({"begin": begin} if begin else {}))
    if owner:
        database.deliver(owner, "5-0")
    if score is not None:
        database.client.zadd(SCHEDULE, {"5-0": score})
    if is_trimmed:
        database.client.xdel(STREAM, "5-0")
    restore_entries(database)
    found = database.schedule().get("5-0")
    expected_owner, expected = restored
    assert database.owned() == ({expected_owner: ["5-0"]} if expected_owner else {})
    assert found is not None and found % 1 == 0.5 if expected == GRACE_DUE else found == expected


@pytest.mark.parametrize(
    ("cursor", "until", "restored"),
    [
        ("2-0", "4-0", ["3-0", "4-0"]),
        ("text", "4-0", []),
        ("2-0", "text", []),
        ("4-0", "4-0", []),
        ("2-0", "9-0", ids(3, 6)),
    ],
)
def test_entries_that_were_delivered_after_the_snapshot_are_restored(
    database: Database, cursor: str, until: str, restored: list[str]
) -> None:
    lost_group(database, *ids(1, 6), stage="delivered", cursor=cursor, until=until)
    assert restore_entries(database) == 1
    assert list(database.pending()) == restored
    assert snapshot(database) == {"stage": "pending", "cursor": "1", "until": until}


def test_a_snapshot_without_its_fields_restores_nothing(database: Database) -> None:
    lost_group(database, "1-0", stage="delivered")
    assert [restore_entries(database) for _ in range(3)] == [1, 1, 0]
    assert snapshot(database) == {}
    set_snapshot(database, stage="pending", cursor="text")
    assert [restore_entries(database) for _ in range(2)] == [1, 0]
    assert database.pending() == {}


@pytest.mark.parametrize("cursor", ["1", "text", None])
def test_entries_are_restored_from_the_first_if_the_cursor_is_unusable(database: Database, cursor: str | None) -> None:
    lost_group(database, *ids(1, 2), stage="pending", pending="1-0 2-0", **({"cursor": cursor} if cursor else {}))
    assert restore_entries(database) == 1
    assert list(database.pending()) == ids(1, 2)


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 30])
def test_delivered_and_pending_entries_are_restored_in_pages(database: Database, count: int) -> None:
    database.add_many(count)
    database.command("XGROUP", "SETID", STREAM, GROUP, f"{count}-0")
    entries = ids(1, count)
    set_snapshot(database, stage="delivered", cursor="0-0", until=entries[-1], pending=" ".join(entries))
    for stage in ("delivered", "pending"):
        assert snapshot(database)["stage"] == stage
        for page in range(count // PAGE):
            assert restore_entries(database) == 1
            assert list(database.pending()) == entries[: (page + 1) * PAGE]
            assert snapshot(database)["stage"] == stage
        assert restore_entries(database) == 1
        assert list(database.pending()) == entries
        database.command("XACK", STREAM, GROUP, *entries)
        database.client.delete(SCHEDULE)
    assert snapshot(database)["stage"] == "schedule"


@pytest.mark.parametrize("cursor", ["0", "", "text", "9" * 25, None])
def test_entries_in_the_schedule_are_restored_in_pages(database: Database, cursor: str | None) -> None:
    database.add_many(400)
    database.command("XGROUP", "SETID", STREAM, GROUP, "400-0")
    database.client.zadd(SCHEDULE, dict.fromkeys(ids(1, 400), FUTURE))
    set_snapshot(
        database,
        stage="schedule",
        until="1-0",
        begin="500-0",
        position="1-0",
        **({} if cursor is None else {"cursor": cursor}),
    )
    pages = 1
    while restore_entries(database):
        assert len(database.pending()) >= PAGE
        pages += 1
        assert pages < 10
    assert pages > 1
    assert set(database.pending()) == set(ids(1, 400))
    assert set(database.schedule().values()) == {FUTURE}
    assert snapshot(database) == {"position": "1-0"}


# -- deletion ----------------------------------------------------------------------------------------------------------

ABSENT_SECONDS, MIN_IDLE = 100, 30_000


def delete_group(database: Database, min_idle: int = MIN_IDLE) -> Any:
    keys = [STREAM, MEMBERS, *KEYS[1:], REGISTRATIONS, SNAPSHOT]
    arguments = (GROUP, POSTPONED, ABSENT_SECONDS, min_idle)
    return database.run(deletion.DELETE_GROUP, *arguments, keys=keys, me=())


def test_a_group_without_live_consumers_is_deleted_with_its_keys(database: Database) -> None:
    database.add("1-0")
    database.deliver(POSTPONED, "1-0")
    database.client.hset(MEMBERS, "pod-a", int(database.now() / 1000) - ABSENT_SECONDS - 1)
    set_snapshot(database, format=1)
    database.client.zadd(SCHEDULE, {"1-0": 1})
    assert delete_group(database) == [[], 1, 3]
    assert database.groups() == {}
    assert database.client.keys() == [STREAM]
    assert delete_group(database) == [[], 0, 0]


def test_the_keys_of_a_missing_stream_are_deleted(database: Database) -> None:
    database.client.zadd(SCHEDULE, {"1-0": 1})
    assert delete_group(database) == [[], 0, 1]
    database.client.set(STREAM, "text")
    with pytest.raises(ResponseError, match=r"^WRONGTYPE"):
        delete_group(database)


@pytest.mark.parametrize(
    ("announced", "is_alive"), [(0, True), (-60, True), (3600, True), ("text", True), ("nan", True), (-101, False)]
)
def test_an_announced_consumer_prevents_the_deletion(database: Database, announced: int | str, is_alive: bool) -> None:
    database.create_group()
    now = int(database.now() / 1000)
    database.client.hset(MEMBERS, "pod-a", announced if isinstance(announced, str) else now + announced)
    assert delete_group(database) == ([["pod-a"], 1, 0] if is_alive else [[], 1, 1])
    assert (GROUP in database.groups()) == is_alive
    assert database.client.exists(MEMBERS) == is_alive


@pytest.mark.parametrize(("min_idle", "is_alive"), [(MIN_IDLE, True), (0, False)])
def test_an_active_consumer_prevents_the_deletion(database: Database, min_idle: int, is_alive: bool) -> None:
    database.create_group()
    database.client.xgroup_createconsumer(STREAM, GROUP, "pod-a")
    assert delete_group(database, min_idle) == [["pod-a"] if is_alive else [], 1, 0]
    assert (GROUP in database.groups()) == is_alive


def test_the_names_of_live_consumers_are_limited(database: Database) -> None:
    database.create_group()
    names = [f"{number:03}{'x' * 300}" for number in range(101)]
    database.client.hset(MEMBERS, mapping=dict.fromkeys(names, int(database.now() / 1000)))
    [found, _, _] = delete_group(database)
    assert len(found) == 100
    assert set(found) <= {name[:256] for name in names}


def test_a_group_that_is_too_large_to_check_is_kept(database: Database) -> None:
    database.create_group()
    database.fill(MEMBERS, MAX_REGISTRATIONS + 1)
    expected = f"found {MAX_REGISTRATIONS + 1} registrations of consumers, expected at most {MAX_REGISTRATIONS}; "
    with pytest.raises(ResponseError, match=f"{expected}delete .*consumers, wait .* and retry"):
        delete_group(database)
    database.client.hdel(MEMBERS, "1-1")
    assert len(delete_group(database)[0]) == 100
    database.create_consumers(MAX_CONSUMERS)
    expected = f"found {MAX_CONSUMERS + 1} consumers in the group, expected at most {MAX_CONSUMERS}; delete unused"
    with pytest.raises(ResponseError, match=expected):
        delete_group(database)
    assert GROUP in database.groups()


def test_a_group_of_the_maximum_size_is_checked(database: Database) -> None:
    database.create_group()
    database.create_consumers(MAX_CONSUMERS - 1)
    assert len(delete_group(database)[0]) == 100


def test_an_entry_that_was_restored_without_memory_survives_a_second_loss(database: Database) -> None:
    """The snapshot does not contain postponed entries, so each of them needs a due time."""
    database.add("1-0")
    database.deliver(ME, "1-0")
    assert save(database) == "saved"
    database.client.xgroup_destroy(STREAM, GROUP)
    restore_group(database)
    database.client.config_set("maxmemory", 1)
    restore_entries(database)
    database.client.config_set("maxmemory", 0)
    while restore_entries(database):
        pass
    assert "1-0" in database.schedule()
    database.client.hset(SNAPSHOT, "at", 0)
    assert save(database) == "saved"
    database.client.xgroup_destroy(STREAM, GROUP)
    restore_group(database)
    while restore_entries(database):
        pass
    assert database.client.xpending(STREAM, GROUP)["pending"] == 1
