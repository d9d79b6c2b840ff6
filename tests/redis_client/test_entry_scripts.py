"""Scripts that change one entry: what each script does in each state of the entry."""

from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from streamconsumer.processor.consumer import effects_commit, group_snapshot, leases
from streamconsumer.processor.dead_letters import store, writer
from streamconsumer.redis_client.keys import MAX_REMEMBERED_COMMITS
from tests.redis_client.script_database import (
    CLAIMED,
    CLAIMED_BEFORE,
    COMMITTED,
    DEAD_LETTERS,
    GROUP,
    KEYS,
    ME,
    PEER,
    POSTPONED,
    SCHEDULE,
    SNAPSHOT,
    SNAPSHOT_KEYS,
    STREAM,
    Database,
)

ID, DUE = "5-0", 2 * 10**12
RESTORED_DUE = DUE + 0.5

# -- states ------------------------------------------------------------------------------------------------------------


def mine(database: Database) -> None:
    database.deliver(ME, ID, deliveries=3)


def peer(database: Database) -> None:
    database.deliver(PEER, ID, deliveries=3)


def orphaned(database: Database) -> None:
    """The group has delivered the entry, and no record of the delivery is left."""
    database.deliver(ME, ID)
    database.command("XACK", STREAM, "billing", ID)


def settled_by_peer(database: Database) -> None:
    orphaned(database)
    database.client.hset(CLAIMED, ID, PEER)


def settled_by_peer_before(database: Database) -> None:
    orphaned(database)
    database.client.hset(CLAIMED_BEFORE, ID, PEER)


def settled(database: Database) -> None:
    """A script has written the effects or the dead letter of the entry."""
    orphaned(database)
    database.client.zadd(COMMITTED, {ID: 1})


def claimed_back(database: Database) -> None:
    settled_by_peer_before(database)
    database.client.hset(CLAIMED, ID, ME)


def postponed(database: Database) -> None:
    database.deliver(POSTPONED, ID, deliveries=3)
    database.client.zadd(SCHEDULE, {ID: DUE})


def postponed_without_due_time(database: Database) -> None:
    database.deliver(POSTPONED, ID, deliveries=3)


def restored(database: Database) -> None:
    database.deliver(POSTPONED, ID, deliveries=3)
    database.client.zadd(SCHEDULE, {ID: RESTORED_DUE})


def restored_after_claim_of_peer(database: Database) -> None:
    restored(database)
    database.client.hset(CLAIMED, ID, PEER)


def restored_and_trimmed(database: Database) -> None:
    restored(database)
    database.client.xdel(STREAM, ID)


def mine_and_trimmed(database: Database) -> None:
    mine(database)
    database.client.xdel(STREAM, ID)


def orphaned_and_trimmed(database: Database) -> None:
    orphaned(database)
    database.client.xdel(STREAM, ID)


State = Callable[[Database], None]
STATES: tuple[State, ...] = (
    *(mine, peer, orphaned, settled_by_peer, settled_by_peer_before, claimed_back),
    *(postponed, postponed_without_due_time, restored, restored_after_claim_of_peer),
    *(restored_and_trimmed, mine_and_trimmed, orphaned_and_trimmed, settled),
)
LOST = (
    *(peer, settled_by_peer, settled_by_peer_before, postponed, postponed_without_due_time),
    restored_after_claim_of_peer,
)
TAKEN = (orphaned, claimed_back, restored)
"""States in which the entry becomes pending with the consumer again."""

# -- scripts -----------------------------------------------------------------------------------------------------------


def renew(database: Database) -> Any:
    return database.run(leases.RENEW, ID)


def start(database: Database) -> Any:
    return database.run(leases.START_ATTEMPT, ID, 8)


def set_count(database: Database) -> Any:
    return database.run(leases.SET_DELIVERY_COUNTS, ID, 8)


def postpone(database: Database) -> Any:
    [outcome] = database.run(leases.POSTPONE, ID, 8, 60_000, keys=SNAPSHOT_KEYS)
    return outcome


def write_dead_letter(database: Database) -> Any:
    return database.run(writer.WRITE_AND_ACK, ID, 100, "reason", "x", keys=[*KEYS, DEAD_LETTERS])


def commit(database: Database) -> Any:
    return database.run(effects_commit.COMMIT, ID, "SET", 6, 1, "x", keys=[*KEYS, "written"])


Operation = Callable[[Database], Any]
Expected = tuple[Any, tuple[str, int] | None]
"""Reply, and owner and delivery count of the entry afterwards. None if the entry is not pending."""

UNCHANGED: dict[State, tuple[str, int] | None] = {
    **dict.fromkeys(STATES, None),
    **dict.fromkeys((mine, mine_and_trimmed), (ME, 3)),
    peer: (PEER, 3),
    **dict.fromkeys(
        (postponed, postponed_without_due_time, restored, restored_after_claim_of_peer, restored_and_trimmed),
        (POSTPONED, 3),
    ),
}


def lost(reply: Any) -> dict[State, Expected]:
    return {state: (reply, UNCHANGED[state]) for state in LOST}


EXPECTED: dict[Operation, dict[State, Expected]] = {
    renew: {
        **lost([ID]),
        mine: ([], (ME, 3)),
        **dict.fromkeys((orphaned, claimed_back), ([], (ME, 1))),
        restored: ([], (ME, 3)),
        settled: ([], None),
        **dict.fromkeys((restored_and_trimmed, mine_and_trimmed, orphaned_and_trimmed), ([], None)),
    },
    start: {
        **lost("lost"),
        settled: ("lost", None),
        **dict.fromkeys((mine, *TAKEN), ("done", (ME, 8))),
        **dict.fromkeys((restored_and_trimmed, mine_and_trimmed, orphaned_and_trimmed), ("trimmed", None)),
    },
    set_count: {
        **lost(None),
        settled: (None, None),
        **dict.fromkeys((mine, *TAKEN), (None, (ME, 8))),
        **dict.fromkeys((restored_and_trimmed, mine_and_trimmed, orphaned_and_trimmed), (None, None)),
    },
    postpone: {
        **lost("lost"),
        **dict.fromkeys((postponed, postponed_without_due_time), ("done", (POSTPONED, 3))),
        **dict.fromkeys((mine, *TAKEN), ("done", (POSTPONED, 8))),
        **dict.fromkeys((restored_and_trimmed, mine_and_trimmed), ("done", None)),
        orphaned_and_trimmed: ("trimmed", None),
        settled: ("lost", None),
    },
    write_dead_letter: {**dict.fromkeys(STATES, ("done", None)), **lost("lost")},
    commit: {**dict.fromkeys(STATES, ("done", None)), **lost("lost"), settled: ("before", None)},
}
CASES = [
    pytest.param(operation, state, expected, id=f"{operation.__name__}-{state.__name__}")
    for operation, by_state in EXPECTED.items()
    for state, expected in by_state.items()
]


@pytest.mark.parametrize(("operation", "state", "expected"), CASES)
def test_a_script_does_what_the_state_of_the_entry_requires(
    database: Database, operation: Operation, state: State, expected: Expected
) -> None:
    database.add("4-0", ID, "6-0")
    database.deliver(PEER, "4-0")
    state(database)
    score = database.schedule().get(ID)
    reply, entry = expected
    assert operation(database) == reply
    assert database.pending() == {"4-0": (PEER, 1)} | ({ID: entry} if entry else {})
    is_claimed = state in (mine, *TAKEN) and operation in (renew, start, set_count, postpone)
    assert (ID in database.idle()) == (entry is not None and not is_claimed)
    if state in TAKEN and operation in (renew, start, set_count):
        assert database.schedule()[ID] == -1
    elif state in (*LOST, settled):
        assert database.schedule().get(ID) == score


# -- renewals ----------------------------------------------------------------------------------------------------------


def ids(first: int, last: int) -> list[str]:
    return [f"{number}-0" for number in range(first, last + 1)]


def test_a_renewal_of_own_entries_needs_few_commands(database: Database) -> None:
    mine, others = ids(10, 99)[::2], ids(10, 99)[1::2]
    database.add(*ids(10, 99))
    database.deliver(ME, *mine)
    database.deliver(PEER, *others)
    assert database.calls(leases.RENEW, *mine) == 2
    assert database.idle() == set(others)


def test_a_renewal_changes_only_the_given_entries_however_many_lie_between_them(database: Database) -> None:
    database.add(*ids(10, 40))
    database.deliver(ME, *ids(10, 40))
    assert database.run(leases.RENEW, "10-0", "40-0") == []
    assert database.idle() == set(ids(11, 39))
    assert set(database.pending().values()) == {(ME, 1)}


def test_a_renewal_without_an_own_entry_claims_nothing(database: Database) -> None:
    database.add(*ids(1, 3))
    database.deliver(PEER, *ids(1, 3))
    assert database.run(leases.RENEW, *ids(1, 2)) == ids(1, 2)
    assert database.idle() == set(ids(1, 3))


def test_several_entries_are_changed_by_one_call(database: Database) -> None:
    database.add(*ids(1, 4))
    database.deliver(ME, *ids(1, 3))
    database.deliver(PEER, "4-0")
    database.run(leases.SET_DELIVERY_COUNTS, "1-0", 5, "2-0", 6)
    assert database.pending() == {"1-0": (ME, 5), "2-0": (ME, 6), "3-0": (ME, 1), "4-0": (PEER, 1)}
    before = database.now()
    postponements = ("2-0", 7, 60_000, "4-0", 8, 1000, "3-0", 9, 120_000)
    replies = database.run(leases.POSTPONE, *postponements, keys=SNAPSHOT_KEYS)
    assert replies == ["done", "lost", "done"]
    assert database.pending() == {"1-0": (ME, 5), "2-0": (POSTPONED, 7), "3-0": (POSTPONED, 9), "4-0": (PEER, 1)}
    due = {message_id: score - before for message_id, score in database.schedule().items()}
    assert due == {"2-0": pytest.approx(60_000, abs=5000), "3-0": pytest.approx(120_000, abs=5000)}


# -- group of another program ------------------------------------------------------------------------------------------


def redeliver_first(database: Database) -> None:
    database.command("XACK", STREAM, "billing", ID)
    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="1-0")
    assert redeliver(database) == ID


def save(database: Database) -> None:
    assert database.run(group_snapshot.SAVE, keys=SNAPSHOT_KEYS) == "restoring"


def restore(database: Database) -> None:
    assert database.run(group_snapshot.RESTORE_ENTRIES, keys=SNAPSHOT_KEYS) == 1


@pytest.mark.parametrize(
    ("operation", "stage", "cursor", "expected"),
    [
        *[(operation, None, None, ("pending", "1")) for operation in (postpone, redeliver_first, save)],
        *[(operation, "schedule", "7", ("pending", "1")) for operation in (postpone, redeliver_first, restore)],
        *[(operation, "delivered", "1-0", ("delivered", "1-0")) for operation in (postpone, redeliver_first, restore)],
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_entries_of_a_group_that_another_program_has_created_must_be_restored(
    database: Database, operation: Operation, stage: str | None, cursor: str | None, expected: tuple[str, str]
) -> None:
    database.add("4-0", ID, "6-0")
    mine(database)
    database.client.xgroup_delconsumer(STREAM, "billing", POSTPONED)
    if stage and cursor:
        database.client.hset(SNAPSHOT, mapping={"stage": stage, "cursor": cursor, "pending": "4-0"})
    operation(database)
    found = database.client.hgetall(SNAPSHOT)
    assert (found["stage"], found["cursor"], found["begin"]) == (*expected, ID)
    assert "4-0" not in database.pending()


@pytest.mark.parametrize("operation", [postpone, redeliver_first])
def test_the_snapshot_of_a_known_group_is_not_changed(database: Database, operation: Operation) -> None:
    database.add(ID)
    mine(database)
    operation(database)
    assert database.owned() == {POSTPONED: [ID]}
    assert not database.client.exists(SNAPSHOT)


def test_several_entries_are_postponed_with_few_commands(database: Database) -> None:
    database.add(*ids(1, 2))
    database.deliver(ME, *ids(1, 2))
    per_entry, once = ("XPENDING", "ZADD", "XCLAIM"), ("TIME", "XGROUP")
    arguments = ("1-0", 1, 1000, "2-0", 1, 1000)
    assert database.calls(leases.POSTPONE, *arguments, keys=SNAPSHOT_KEYS) == 2 * len(per_entry) + len(once)


# -- repair of the schedule --------------------------------------------------------------------------------------------


def test_idle_postponed_entries_without_a_due_time_become_due(database: Database) -> None:
    database.add(*ids(1, 6))
    database.deliver(POSTPONED, *ids(1, 4))
    database.deliver(POSTPONED, "5-0", idle=0)
    database.deliver(PEER, "6-0")
    database.client.zadd(SCHEDULE, {"2-0": DUE, "3-0": -5, "1-0": 0.5})
    assert database.run(leases.REPAIR_SCHEDULE, 30_000, "") == ""
    assert database.schedule() == {"1-0": 0.5, "2-0": DUE, "3-0": 0, "4-0": 0}


def test_the_schedule_is_repaired_in_pages(database: Database) -> None:
    database.add(*ids(1, 301))
    database.deliver(POSTPONED, *ids(1, 301))
    assert database.run(leases.REPAIR_SCHEDULE, 30_000, "") == "300-0"
    assert len(database.schedule()) == 300
    assert database.run(leases.REPAIR_SCHEDULE, 30_000, "300-0") == ""
    assert set(database.schedule()) == set(ids(1, 301))
    database.client.delete(SCHEDULE)
    database.client.xdel(STREAM, "1-0")
    database.command("XACK", STREAM, "billing", "1-0")
    assert database.run(leases.REPAIR_SCHEDULE, 30_000, "2-0") == ""
    assert "2-0" not in database.schedule()


# -- dead letters ------------------------------------------------------------------------------------------------------


def dead_letters(database: Database) -> list[dict[str, str]]:
    return [fields for _, fields in database.client.xrange(DEAD_LETTERS)]


def test_a_dead_letter_is_written_once(database: Database) -> None:
    database.add(ID)
    mine(database)
    before = database.now()
    assert write_dead_letter(database) == "done"
    assert dead_letters(database) == [{"reason": "x"}]
    assert database.client.zscore(COMMITTED, ID) == pytest.approx(before, abs=5000)
    mine(database)
    assert write_dead_letter(database) == "done"
    assert len(dead_letters(database)) == 1
    assert database.pending() == {}


def test_no_dead_letter_of_a_lost_entry_is_written(database: Database) -> None:
    database.add(ID)
    peer(database)
    assert write_dead_letter(database) == "lost"
    assert not database.client.exists(DEAD_LETTERS, COMMITTED)


def test_the_number_of_dead_letters_is_limited(database: Database) -> None:
    database.add(*ids(1, 250))
    database.deliver(ME, *ids(1, 250))
    for message_id in ids(1, 250):
        database.run(writer.WRITE_AND_ACK, message_id, 10, "f", "v", keys=[*KEYS, DEAD_LETTERS])
    assert database.client.xlen(DEAD_LETTERS) < 250


@pytest.mark.parametrize("operation", [write_dead_letter, commit], ids=lambda each: each.__name__)
def test_the_number_of_remembered_commits_is_limited(database: Database, operation: Operation) -> None:
    database.fill(COMMITTED, MAX_REMEMBERED_COMMITS)
    database.add(ID)
    mine(database)
    operation(database)
    assert database.client.zcard(COMMITTED) == MAX_REMEMBERED_COMMITS
    assert database.client.zscore(COMMITTED, "1-1") is None
    assert database.client.zscore(COMMITTED, ID) is not None


# -- effects -----------------------------------------------------------------------------------------------------------


def apply(database: Database, *effects: tuple[str, ...]) -> Any:
    """Commit effects, each given as command, key and arguments."""
    keys = [*KEYS, *dict.fromkeys(key for _, key, *_ in effects)]
    flat: list[Any] = []
    for command, key, *words in effects:
        flat += [command, keys.index(key) + 1, len(words), *words]
    return database.run(effects_commit.COMMIT, ID, *flat, keys=keys)


@pytest.fixture
def owned(database: Database) -> Database:
    """A database with an own pending entry."""
    database.add(ID)
    mine(database)
    return database


ADD, SET, INCREMENT, DELETE = ("XADD", "s", "*", "f", "v"), ("SET", "t", "x"), ("INCRBY", "n", "5"), ("DEL", "d")
ALL_EFFECTS = (ADD, SET, INCREMENT, DELETE)


def test_effects_are_applied_once_with_the_acknowledgement(owned: Database) -> None:
    owned.client.set("d", "x")
    before = owned.now()
    assert apply(owned, *ALL_EFFECTS, ("INCRBY", "n", "-2")) == "done"
    assert owned.client.xrange("s")[0][1] == {"f": "v"}
    assert owned.client.mget("t", "n", "d") == ["x", "3", None]
    assert owned.pending() == {}
    assert owned.client.zscore(COMMITTED, ID) == pytest.approx(before, abs=5000)
    mine(owned)
    assert apply(owned, *ALL_EFFECTS) == "before"
    assert (owned.client.get("n"), owned.client.xlen("s"), owned.pending()) == ("3", 1, {})


def test_deletions_are_applied_before_the_other_effects(owned: Database) -> None:
    owned.client.set("n", "7")
    assert apply(owned, ("INCRBY", "n", "5"), ("DEL", "n"), ("DEL", "t"), ("SET", "t", "x")) == "done"
    assert owned.client.mget("n", "t") == ["5", "x"]


def test_effects_that_occur_twice_are_probed_once(owned: Database) -> None:
    always = (
        "ZSCORE",
        "XPENDING",
        "XACK",
        "ZADD",
        "ZREMRANGEBYRANK",
        "TIME",
        "TIME",
        "ZADD",
        "ZREMRANGEBYRANK",
        "XACK",
    )
    effects, probe = ("TYPE", "TYPE", "INCRBY", "INCRBY"), ("INCRBY",)
    arguments = (ID, "INCRBY", 6, 1, 1, "INCRBY", 6, 1, 1)
    calls = owned.calls(effects_commit.COMMIT, *arguments, keys=[*KEYS, "n"])
    assert calls == len(always) + len(effects) + len(probe)


REFUSED = [
    *(("xadd", ADD), ("set", SET), ("incrby", INCREMENT)),
    *((command, SET) for command in ("xack", "zadd", "zremrangebyrank", "time")),
]


@pytest.mark.parametrize(("command", "effect"), REFUSED)
def test_no_effect_is_applied_if_one_command_is_not_permitted(
    owned: Database, command: str, effect: tuple[str, ...]
) -> None:
    owned.client.mset({"d": "x", "other": "1"})
    owned.command("ACL", "SETUSER", "default", f"-{command}")
    with pytest.raises(ResponseError, match="run"):
        apply(owned, ("DEL", "d"), ("INCRBY", "other", "1") if command != "incrby" else SET, effect)
    assert owned.pending() == {ID: (ME, 3)}
    assert owned.client.mget("d", "other", "t") == ["x", "1", None]
    assert not owned.client.exists("s", COMMITTED)


@pytest.mark.parametrize(
    ("effect", "stored", "reply"),
    [
        (ADD, ("HSET", "s", "f", "v"), ["XADD", "s", "hash"]),
        (ADD, ("SET", "s", "v"), ["XADD", "s", "string"]),
        (ADD, ("XADD", "s", "1-0", "f", "v"), "done"),
        (SET, ("RPUSH", "t", "v"), ["SET", "t", "list"]),
        (SET, ("SET", "t", "any text"), "done"),
        (INCREMENT, ("RPUSH", "n", "v"), ["INCRBY", "n", "list"]),
        (DELETE, ("RPUSH", "d", "v"), "done"),
        *[(INCREMENT, ("SET", "n", value), "done") for value in ("0", "5", "-5", "9" * 18, f"-{'9' * 18}")],
        *[
            (INCREMENT, ("SET", "n", value), ["INCRBY", "n", "no number"])
            for value in ("", "text", "05", "1.5", "-", "-0", "+5", "5 ", "9" * 19, f"-{'1' * 19}", "1" * 30, "x" * 30)
        ],
    ],
)
def test_a_key_of_another_type_rejects_all_effects(
    owned: Database, effect: tuple[str, ...], stored: tuple[str, ...], reply: Any
) -> None:
    owned.command(*stored)
    owned.client.set("other", "1")
    assert apply(owned, ("INCRBY", "other", "1"), effect) == reply
    assert owned.client.get("other") == ("2" if reply == "done" else "1")
    assert owned.pending() == ({} if reply == "done" else {ID: (ME, 3)})


def test_a_long_text_is_not_read(owned: Database) -> None:
    owned.client.set("n", "1" * 20)
    owned.client.config_resetstat()
    apply(owned, INCREMENT)
    assert "cmdstat_get" not in owned.client.info("commandstats")


# -- replay ------------------------------------------------------------------------------------------------------------


def redeliver(database: Database, dead_letter: str = "1-0") -> Any:
    return database.run(store.REDELIVER, dead_letter, ID, keys=[*KEYS, DEAD_LETTERS, SNAPSHOT])


def test_a_dead_letter_is_redelivered(database: Database) -> None:
    database.add(ID)
    orphaned(database)
    database.client.zadd(COMMITTED, {ID: 1, "4-0": 1})
    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="1-0")
    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="2-0")
    assert redeliver(database) == ID
    assert database.pending() == {ID: (POSTPONED, 0)}
    assert database.schedule() == {ID: 0}
    assert database.client.zrange(COMMITTED, 0, -1) == ["4-0"]
    assert [message_id for message_id, _ in database.client.xrange(DEAD_LETTERS)] == ["2-0"]


def test_a_dead_letter_of_a_pending_entry_is_only_deleted(database: Database) -> None:
    database.add("4-0", ID)
    database.deliver(POSTPONED, "4-0")
    peer(database)
    database.client.zadd(COMMITTED, {ID: 1})
    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="1-0")
    assert redeliver(database) == ID
    assert database.pending() == {"4-0": (POSTPONED, 1), ID: (PEER, 3)}
    assert not database.client.exists(SCHEDULE, DEAD_LETTERS) or database.client.xlen(DEAD_LETTERS) == 0
    assert database.client.zscore(COMMITTED, ID) == 1


def test_no_entry_is_redelivered_without_its_dead_letter(database: Database) -> None:
    database.add(ID)
    orphaned(database)
    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="2-0")
    assert redeliver(database) == ""
    assert database.pending() == {}


def test_a_dead_letter_whose_entry_is_gone_is_kept(database: Database) -> None:
    database.add("4-0", ID, "6-0")
    orphaned_and_trimmed(database)
    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="1-0")
    assert redeliver(database) == "gone"
    assert database.client.xlen(DEAD_LETTERS) == 1


def test_a_dead_letter_is_replayed_as_a_new_entry(database: Database) -> None:
    def replay() -> Any:
        return database.run(store.REPLAY, "1-0", "f", "v", "g", "w", keys=[STREAM, DEAD_LETTERS], me=())

    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="1-0")
    database.client.xadd(DEAD_LETTERS, {"f": "v"}, id="2-0")
    added = replay()
    assert database.client.xrange(STREAM) == [(added, {"f": "v", "g": "w"})]
    assert database.client.xlen(DEAD_LETTERS) == 1
    assert replay() == ""
    assert database.client.xlen(STREAM) == 1


def test_the_first_and_the_last_id_are_read(database: Database) -> None:
    def first(begin: str, end: str) -> Any:
        return database.run(store.FIRST_ID, begin, end, keys=[STREAM], me=())

    def last() -> Any:
        return database.run(store.LAST_ID, keys=[STREAM], me=())

    assert (first("-", "+"), last()) == ("", "")
    database.add("3-0", "4-0", "5-0")
    assert (first("-", "+"), first("4-0", "+"), first("-", "2-0"), last()) == ("3-0", "4-0", "", "5-0")


def test_an_entry_that_is_taken_back_without_memory_is_in_the_schedule(database: Database) -> None:
    """The group may be lost again before a snapshot contains the entry."""
    database.add(ID)
    database.client.xgroup_setid(STREAM, GROUP, ID)
    database.client.config_set("maxmemory", 1)
    assert renew(database) == []
    assert database.client.xpending(STREAM, GROUP)["pending"] == 1
    assert database.schedule() == {ID: -1}
