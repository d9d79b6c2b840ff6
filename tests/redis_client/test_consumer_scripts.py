"""Scripts about the consumers of a group: check, registration and deletion of consumers."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.processor.consumer import observer, registration
from streamconsumer.redis_client import scripts
from streamconsumer.redis_client.scripts import MAX_CONSUMERS, MAX_FIELD_BYTES
from tests.redis_client.script_database import (
    GROUP,
    ME,
    MEMBERS,
    PEER,
    POSTPONED,
    REGISTRATIONS,
    STREAM,
    Database,
)

NEVER, ALWAYS = 10**9, -1
"""Idle times in milliseconds that no consumer has exceeded, and that each consumer has exceeded."""

LONG = "x" * (MAX_FIELD_BYTES + 1)

# -- check of all consumers --------------------------------------------------------------------------------------------


class Checked:
    """Reply of the script that checks consumers."""

    def __init__(self, reply: list[Any]) -> None:
        self.now, self.consumers, self.pending, self.postponed, self.is_listed, self.version = reply[:6]
        self.silent: dict[str, int] = dict(reply[6])
        self.stale = set(reply[7])
        self.hashes = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in reply[8:]]
        assert len(reply) in (8, 10)
        assert (len(self.silent), len(self.stale)) == (len(reply[6]), len(reply[7]))


def check(
    database: Database,
    *,
    silence: int = NEVER,
    limit: int = MAX_CONSUMERS,
    version: str = "",
    idle: int | str = "",
    announces: int = 0,
) -> Checked:
    keys = [STREAM, REGISTRATIONS, MEMBERS]
    return Checked(database.run(observer.CHECK, silence, limit, version, idle, announces, keys=keys))


@pytest.fixture
def occupied(database: Database) -> Database:
    """A group with entries of four owners. The entries of `fresh` have just been delivered."""
    database.add(*(f"{number}-0" for number in range(1, 8)))
    database.deliver(ME, "1-0")
    database.deliver(PEER, "2-0", "3-0")
    database.deliver("fresh", "4-0", idle=0)
    database.deliver(LONG, "5-0")
    database.deliver(POSTPONED, "6-0", "7-0")
    database.client.xgroup_createconsumer(STREAM, GROUP, "empty")
    return database


def test_a_check_counts_consumers_and_entries(occupied: Database) -> None:
    before = occupied.now()
    checked = check(occupied)
    assert checked.now == pytest.approx(before, abs=5000)
    assert (checked.consumers, checked.pending, checked.postponed, checked.is_listed) == (6, 7, 2, 1)
    assert (checked.version, checked.silent, checked.stale, checked.hashes) == ("", {}, set(), [])
    assert not occupied.client.exists(MEMBERS)


def test_a_check_lists_the_silent_consumers_with_entries(occupied: Database) -> None:
    checked = check(occupied, silence=ALWAYS)
    assert set(checked.silent) == {ME, PEER, "fresh"}
    assert all(0 <= idle < 60_000 for idle in checked.silent.values())
    assert checked.stale == set()


def test_a_check_searches_idle_entries(occupied: Database) -> None:
    checked = check(occupied, idle=30_000)
    assert (checked.silent, checked.stale) == ({}, {ME, PEER})


def register(database: Database, key: str, *names: str) -> None:
    database.client.hset(key, mapping=dict.fromkeys(names, "value"))


def test_a_check_of_a_crowded_group_examines_the_registered_consumers(occupied: Database) -> None:
    register(occupied, REGISTRATIONS, "", ME, "fresh", "empty", "unknown", LONG)
    register(occupied, MEMBERS, PEER, "fresh", "empty", "unknown", LONG)
    checked = check(occupied, silence=30_000, limit=5, version="value")
    assert (checked.consumers, checked.pending, checked.postponed, checked.is_listed) == (6, 7, 1, 0)
    assert set(checked.silent) == {ME}
    assert checked.silent[ME] >= 60_000
    assert (checked.stale, checked.hashes) == (set(), [])
    assert set(check(occupied, silence=0, limit=5).silent) == {ME, "fresh"}
    assert check(occupied, limit=5, idle=30_000).stale == {PEER}
    assert check(occupied, limit=6).is_listed == 1


def test_a_crowded_group_may_have_no_postponed_and_no_registered_consumers(occupied: Database) -> None:
    occupied.command("XACK", STREAM, GROUP, "6-0", "7-0")
    checked = check(occupied, silence=0, limit=0, idle=0)
    assert (checked.pending, checked.postponed, checked.silent, checked.stale) == (5, 0, {}, set())


@pytest.mark.parametrize("limit", [0, MAX_CONSUMERS])
def test_no_consumer_of_a_group_without_entries_is_examined(database: Database, limit: int) -> None:
    database.create_group()
    register(database, REGISTRATIONS, ME)
    checked = check(database, silence=ALWAYS, limit=limit, idle=0, version="")
    assert (checked.pending, checked.postponed, checked.silent, checked.stale) == (0, 0, {}, set())
    keys = [STREAM, REGISTRATIONS, MEMBERS]
    called = ("XACK", "XINFO", "TIME", "HGET")
    assert database.calls(observer.CHECK, ALWAYS, limit, "", 0, 0, keys=keys) == len(called)


def test_a_check_of_silent_consumers_searches_no_entries(occupied: Database) -> None:
    keys = [STREAM, REGISTRATIONS, MEMBERS]
    listing = ("XACK", "XINFO GROUPS", "TIME", "XINFO CONSUMERS", "HGET")
    assert occupied.calls(observer.CHECK, ALWAYS, MAX_CONSUMERS, "", "", 0, keys=keys) == len(listing)
    examining = ("XACK", "XINFO GROUPS", "TIME", "XPENDING", "HSCAN", "TIME", "HGET")
    assert occupied.calls(observer.CHECK, ALWAYS, 0, "", "", 0, keys=keys) == len(examining)


@pytest.mark.parametrize("announces", [0, 1])
@pytest.mark.parametrize(("version", "is_new"), [("7", False), ("6", True), ("unknown", True)])
def test_a_check_returns_the_registrations_after_a_change(
    occupied: Database, version: str, is_new: bool, announces: int
) -> None:
    occupied.client.hset(REGISTRATIONS, mapping={"": "7", ME: "mine", LONG: "long", "long": LONG})
    occupied.client.hset(MEMBERS, mapping={PEER: "5", LONG: "5"})
    before = occupied.now()
    checked = check(occupied, version=version, announces=announces)
    assert checked.version == "7"
    if not is_new and not announces:
        assert checked.hashes == []
        return
    registrations, members = checked.hashes
    assert registrations == {"": "7", ME: "mine"}
    announced = members.pop(ME, None)
    assert members == {PEER: "5"}
    assert occupied.client.hget(MEMBERS, ME) == announced
    assert announced is None if not announces else float(announced or 0) == pytest.approx(before / 1000, abs=5)


def test_a_check_searches_a_limited_number_of_consumers(database: Database) -> None:
    names = [f"pod-{number}" for number in range(500)]
    database.add_many(500, *names)
    register(database, REGISTRATIONS, *names)
    register(database, MEMBERS, *names)
    assert len(check(database, idle=0).stale) == observer.MAX_SEARCHED
    checked = check(database, silence=0, limit=0, idle=0)
    assert (len(checked.stale), len(checked.silent)) == (observer.MAX_SEARCHED, observer.MAX_SEARCHED)


def test_checks_of_many_consumers_search_all_of_them_in_turns(database: Database) -> None:
    names = {f"pod-{number}" for number in range(500)}
    database.add_many(500, *names)
    found: set[str] = set()
    while found != names:
        found |= check(database, idle=0).stale


def test_a_check_of_a_missing_group_is_an_error(database: Database) -> None:
    with pytest.raises(ResponseError, match=r"^NOGROUP"):
        check(database)
    database.client.xadd(STREAM, {"n": "1"})
    with pytest.raises(ResponseError, match=r"^NOGROUP"):
        check(database)


def test_a_check_fails_without_permission(database: Database) -> None:
    database.create_group()
    database.command("ACL", "SETUSER", "default", "-xinfo")
    with pytest.raises(ResponseError, match="run"):
        check(database)


def test_a_check_fails_if_the_server_accepts_no_writes(database: Database) -> None:
    database.create_group()
    database.client.config_set("min-replicas-to-write", 1)
    with pytest.raises(ResponseError, match="NOREPLICAS"):
        check(database)


# -- registrations -----------------------------------------------------------------------------------------------------

NAME_KEYS = [STREAM, REGISTRATIONS]
VALUE = "1 2 mine 4"


@pytest.mark.parametrize(
    ("stored", "judged", "reply", "is_written"),
    [
        (None, "", VALUE, True),
        ("1 2 mine 3", "", "1 2 mine 3", True),
        (VALUE, "", VALUE, False),
        (f"{VALUE} waiting", "", f"{VALUE} waiting", True),
        ("1 2 other 4", "", "1 2 other 4", False),
        ("1 2 other 4", "1 2 other 5", "1 2 other 4", False),
        ("1 2 other 4", "1 2 other 4", VALUE, True),
        ("text", "", "text", False),
        ("text", "text", VALUE, True),
        (LONG, "", VALUE, True),
    ],
)
@pytest.mark.parametrize("version", [None, "7", "text"])
def test_a_name_is_registered_unless_another_process_has_it(
    database: Database, stored: str | None, judged: str, reply: str, *, is_written: bool, version: str | None
) -> None:
    before = {ME: stored, "": version}
    database.client.hset(REGISTRATIONS, mapping={PEER: "x"} | {key: value for key, value in before.items() if value})
    assert database.run(registration.REGISTER, "mine", VALUE, judged, keys=NAME_KEYS) == reply
    found = database.client.hgetall(REGISTRATIONS)
    assert found.pop(PEER) == "x"
    if is_written:
        assert found == {ME: VALUE, "": "8" if version == "7" else "1"}
    else:
        assert found == {key: value for key, value in before.items() if value}


@pytest.mark.parametrize(("version", "changed"), [("7", "8"), ("text", "1")])
def test_a_waiting_process_marks_only_the_registration_that_it_found(
    database: Database, version: str, changed: str
) -> None:
    database.client.hset(REGISTRATIONS, mapping={ME: "1 2 other 4", "": version})
    database.run(registration.WAIT, "1 2 other 5", "waiting", keys=NAME_KEYS)
    assert database.client.hgetall(REGISTRATIONS) == {ME: "1 2 other 4", "": version}
    database.run(registration.WAIT, "1 2 other 4", "waiting", keys=NAME_KEYS)
    assert database.client.hgetall(REGISTRATIONS) == {ME: "1 2 other 4 waiting", "": changed}


# -- single consumers --------------------------------------------------------------------------------------------------

NO_CONSUMER = 10**12


def find(database: Database) -> Any:
    return database.run(registration.FIND_CONSUMER, keys=NAME_KEYS)


@pytest.mark.parametrize(("stored", "found"), [(None, ""), ("1 x", "1 x"), (LONG, "")])
def test_a_consumer_is_found_with_its_registration(database: Database, stored: str | None, found: str) -> None:
    if stored:
        database.client.hset(REGISTRATIONS, ME, stored)
    database.add("1-0", "2-0", "3-0")
    assert find(database) == [found, 0, NO_CONSUMER]
    database.deliver(ME, "1-0", "2-0")
    database.deliver(PEER, "3-0")
    registered, pending, idle = find(database)
    assert (registered, pending) == (found, 2)
    assert 0 <= idle < 60_000


def test_a_consumer_of_a_crowded_group_is_as_idle_as_its_most_recent_entry(database: Database) -> None:
    database.add("1-0", "2-0", "3-0", "4-0")
    database.create_consumers(MAX_CONSUMERS)
    assert find(database) == ["", 0, NO_CONSUMER]
    database.deliver(ME, "1-0", idle=90_000)
    database.deliver(ME, "2-0", idle=70_000)
    database.deliver(ME, "3-0", idle=80_000)
    database.deliver(PEER, "4-0", idle=0)
    registered, pending, idle = find(database)
    assert (registered, pending) == ("", 3)
    assert 70_000 <= idle < 80_000


def test_only_a_consumer_without_entries_is_deleted(database: Database) -> None:
    keys = [STREAM, MEMBERS, REGISTRATIONS]
    for key in keys[1:]:
        register(database, key, ME, PEER)
    database.add("1-0", "2-0")
    database.deliver(ME, "1-0")
    database.deliver(PEER, "2-0")
    assert database.run(scripts.DELETE_IDLE_CONSUMER, keys=keys) == -1
    assert all(set(database.client.hkeys(key)) == {ME, PEER} for key in keys[1:])
    database.command("XACK", STREAM, GROUP, "1-0")
    assert database.run(scripts.DELETE_IDLE_CONSUMER, keys=keys) == 0
    assert all(database.client.hkeys(key) == [PEER] for key in keys[1:])
    assert {each["name"] for each in database.client.xinfo_consumers(STREAM, GROUP)} == {PEER, POSTPONED}
