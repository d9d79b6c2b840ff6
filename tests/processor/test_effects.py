"""Effects: what a handler returns happens together with the acknowledgement, once, or not at all."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from streamconsumer.errors import EffectsRefused
from streamconsumer.processor.effects import LARGEST, Effects
from streamconsumer.processor.stream import effects as applying
from streamconsumer.processor.stream.effects import RIGHTS, commit
from streamconsumer.server.faults import fault
from streamconsumer.server.keys import companion, hash_slot
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import SOURCES

MEMORY = companion(STREAM, GROUP, "committed")
CHILD = Path(__file__).with_name("effects_child.py")

# -- writing effects down --------------------------------------------------------------------------------------------

ANY: Any = 0.5

WRONG: dict[str, tuple[Callable[[Effects], Any], str]] = {
    "no fields": (lambda e: e.add("s", {}), "'s' has 0 fields; expected 1 to 1000"),
    "too many fields": (lambda e: e.add("s", {str(n): "" for n in range(1001)}), "1001 fields; expected 1 to 1000"),
    "no length": (lambda e: e.add("s", {"a": "b"}, max_length=0), "max_length of 's' is 0; expected at least 1"),
    "a number as a value": (lambda e: e.set("k", ANY), "the value of 'k' is 0.5, a float; expected str or bytes"),
    "a number in a field": (lambda e: e.add("s", {"a": ANY}), "a field of 's' is 0.5, a float; expected str or bytes"),
    "no time": (lambda e: e.set("k", "v", timedelta()), "expires of 'k' is 0:00:00; expected at least a millisecond"),
    "half": (lambda e: e.increment("k", ANY), "'k' is to be incremented by 0.5; expected a whole number"),
    "too much": (
        lambda e: e.increment("k", LARGEST).increment("k", -1),
        "'k' is to be incremented by -1; expected 1000000000000000000 at most in one message",
    ),
    "two kinds": (
        lambda e: e.set("k", "1").increment(b"k"),
        "b'k' has a SET already; expected one kind of effect for a key, not INCRBY too",
    ),
}


@pytest.mark.parametrize(("call", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_by_itself_is_told_where_it_is_said(call: Callable[[Effects], Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        call(Effects())
    assert sentence in str(raised.value)


def test_slots_are_those_of_a_cluster() -> None:
    """Numbers that CLUSTER KEYSLOT of a Redis 7.0 gave."""
    keys = {b"123456789": 12739, b"orders": 105, b"{orders}:billing:x": 105, b"a{}b": 13694, b"{}{orders}": 12660}
    assert [hash_slot(key) for key in keys] == [*keys.values()]
    assert hash_slot(b"x{orders}{y}") == hash_slot(b"orders")
    assert hash_slot(b"{{orders}}") == hash_slot(b"{orders")


# -- committing ------------------------------------------------------------------------------------------------------


async def begun(group: Group, count: int = 1, consumer: str = "pod-a") -> list[str]:
    await group.create()
    await group.add(count)
    return await group.read_as(consumer, count)


async def committed(group: Group, message_id: str, effects: Effects) -> bool:
    return await commit(group.manager().ask, STREAM, GROUP, "pod-a", message_id, effects)


async def whole(group: Group) -> dict[str, Any]:
    """All keys of the server, and what they hold."""
    keys: Any = await group.client.keys()
    return {key: await group.client.type(key) for key in keys}


async def test_effects_and_acknowledgement_happen_together(any_group: Group) -> None:
    [message_id] = await begun(any_group)
    client = any_group.client
    await client.set("old", "x")
    await client.set("count", "40")
    effects = (
        Effects()
        .add("invoices", {"order": "7", b"raw": b"\xff"})
        .add("invoices", {"order": "8"}, max_length=1000)
        .set("last", "7")
        .set("soon", "gone", expires=timedelta(minutes=1))
        .increment("count", 2)
        .increment("new", -3)
        .delete("old")
        .delete("never")
    )
    assert await committed(any_group, message_id, effects)
    assert await any_group.pending() == 0
    assert await client.xlen("invoices") == 2
    assert await client.mget("last", "soon", "count", "new", "old") == ["7", "gone", "42", "-3", None]
    assert await client.ttl("last") == -1
    assert 55 < await client.ttl("soon") <= 60


async def test_no_effects_are_an_acknowledgement(any_group: Group) -> None:
    [message_id] = await begun(any_group)
    assert await committed(any_group, message_id, Effects())
    assert await any_group.pending() == 0


async def test_an_entry_may_have_as_many_fields_as_are_allowed(any_group: Group) -> None:
    [message_id] = await begun(any_group)
    effects = Effects()
    for number in range(50):
        effects.add(f"out-{number}", {str(each): "v" for each in range(1000)})
    assert await committed(any_group, message_id, effects)
    assert await any_group.client.xlen("out-49") == 1


async def test_who_has_lost_the_entry_applies_nothing(any_group: Group) -> None:
    [message_id] = await begun(any_group)
    await any_group.take([message_id], "pod-b")
    assert not await committed(any_group, message_id, Effects().increment("count").add("out", {"a": "b"}))
    assert await whole(any_group) == {STREAM: "stream"}
    assert [each.consumer for each in await any_group.entries()] == ["pod-b"]


async def test_an_entry_that_somebody_acknowledged_applies_nothing(any_group: Group) -> None:
    [message_id] = await begun(any_group)
    await any_group.client.xack(STREAM, GROUP, message_id)
    assert not await committed(any_group, message_id, Effects().increment("count"))
    assert await whole(any_group) == {STREAM: "stream"}


async def test_two_consumers_that_both_think_it_is_theirs_apply_it_once(any_group: Group) -> None:
    ids = await begun(any_group, 50)
    ask = any_group.manager().ask

    async def one(consumer: str, message_id: str) -> bool:
        await any_group.take([message_id], consumer)
        return await commit(ask, STREAM, GROUP, consumer, message_id, Effects().increment("count"))

    for message_id in ids:
        await asyncio.gather(one("pod-a", message_id), one("pod-b", message_id))
    assert await any_group.client.get("count") == "50"


async def test_a_commit_that_is_said_again_because_its_reply_was_lost_applies_nothing_more(any_group: Group) -> None:
    [message_id] = await begun(any_group)
    effects = Effects().increment("count")
    assert await committed(any_group, message_id, effects)
    assert not await committed(any_group, message_id, effects)
    assert await any_group.client.get("count") == "1"


async def test_a_committed_entry_that_a_late_renewal_put_back_applies_nothing_more(any_group: Group) -> None:
    [message_id] = await begun(any_group)
    effects = Effects().increment("count")
    assert await committed(any_group, message_id, effects)
    await any_group.client.xclaim(STREAM, GROUP, "pod-a", 0, [message_id], force=True, justid=True)
    assert await any_group.pending() == 1
    assert await committed(any_group, message_id, effects)
    assert await any_group.pending() == 0
    assert await any_group.client.get("count") == "1"


async def test_only_the_last_commits_are_remembered(any_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "REMEMBERED", 3)
    ids = await begun(any_group, 5)
    for message_id in ids:
        assert await committed(any_group, message_id, Effects())
    assert sorted(await any_group.client.zrange(MEMORY, 0, -1)) == ids[2:]


# -- refusing --------------------------------------------------------------------------------------------------------

FULL = Effects().add("out", {"a": "b"}).set("value", "v").increment("count").delete("old")
"""One of each kind: what would be left of it shows that a refusal came too late."""

KEPT = {"old": "string", STREAM: "stream"}


async def refused(group: Group, message_id: str, effects: Effects) -> str:
    with pytest.raises(EffectsRefused) as raised:
        await committed(group, message_id, effects)
    assert await group.pending() == 1
    return str(raised.value)


@pytest.fixture
async def message_id(any_group: Group) -> str:
    [found] = await begun(any_group)
    await any_group.client.set("old", "x")
    return found


@pytest.mark.parametrize(
    ("key", "command", "expected"),
    [("out", "XADD", "a stream"), ("value", "SET", "a string"), ("count", "INCRBY", "a whole number")],
)
async def test_a_key_that_holds_something_else_refuses_all_effects(
    any_group: Group, message_id: str, key: str, command: str, expected: str
) -> None:
    await any_group.client.lpush(key, "x")
    sentence = await refused(any_group, message_id, FULL)
    assert f"message {message_id}: the key '{key}' holds a list; its {command} expects {expected}" in sentence
    assert "Nothing was applied" in sentence
    assert await whole(any_group) == {**KEPT, key: "list"}


@pytest.mark.parametrize("value", ["ten", "", "1.5", " 1", "+1", "01", "-0", "9" * 19, "1" * 30, "1\n"])
async def test_a_value_that_cannot_be_incremented_refuses_all_effects(
    any_group: Group, message_id: str, value: str
) -> None:
    await any_group.client.set("count", value)
    assert "the key 'count' holds no number" in await refused(any_group, message_id, FULL)
    assert await whole(any_group) == {**KEPT, "count": "string"}
    assert await any_group.client.get("count") == value


@pytest.mark.parametrize("value", ["0", "-7", "9" * 18, "-" + "9" * 18])
async def test_whole_numbers_are_incremented(any_group: Group, message_id: str, value: str) -> None:
    await any_group.client.set("count", value)
    assert await committed(any_group, message_id, Effects().increment("count", LARGEST))
    assert await any_group.client.get("count") == str(int(value) + LARGEST)


async def test_the_stream_that_is_read_takes_entries_and_nothing_else(any_group: Group, message_id: str) -> None:
    for effects in (Effects().delete(STREAM), Effects().set(STREAM, "x"), Effects().increment(STREAM)):
        assert "'orders' is the stream that is read" in await refused(any_group, message_id, effects)
    trimming = await refused(any_group, message_id, Effects().add(STREAM, {"a": "b"}, max_length=1))
    assert "set spec.retention" in trimming
    assert "is our own key" in await refused(any_group, message_id, Effects().delete(MEMORY))
    assert await committed(any_group, message_id, Effects().add(STREAM, {"a": "b"}))
    assert await any_group.client.xlen(STREAM) == 2


# -- what is not the message's affair -------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", RIGHTS.split())
async def test_a_user_without_one_of_the_rights_applies_nothing(
    any_group: Group, message_id: str, lacking: str
) -> None:
    rights = [each for each in RIGHTS.split() if each != lacking]
    keys = [f"~{key}" for key in (STREAM, MEMORY, "out", "value", "count", "old")]
    await any_group.client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", *keys, "-@all", *rights)  # type: ignore[no-untyped-call] # ships no types
    await any_group.client.set("count", "1")
    ask = any_group.manager(f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0").ask
    with pytest.raises(NoPermissionError) as raised:
        await commit(ask, STREAM, GROUP, "pod-a", message_id, FULL)
    assert "a script, which needs +eval" in str(raised.value)
    assert fault(raised.value, "here").code == "NOPERM"
    assert await whole(any_group) == {**KEPT, "count": "string"}
    assert await any_group.client.get("count") == "1"
    assert await any_group.pending() == 1
    await any_group.client.execute_command("ACL", "SETUSER", "shop", lacking)  # type: ignore[no-untyped-call] # ships no types
    assert await commit(ask, STREAM, GROUP, "pod-a", message_id, FULL)
    assert await whole(any_group) == dict.fromkeys(("count", "value"), "string") | {
        "out": "stream",
        STREAM: "stream",
        MEMORY: "zset",
    }


async def test_a_user_who_may_not_touch_a_key_applies_nothing(any_group: Group, message_id: str) -> None:
    keys = [f"~{key}" for key in (STREAM, MEMORY, "out", "value", "old")]
    await any_group.client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", *keys, "-@all", *RIGHTS.split())  # type: ignore[no-untyped-call] # ships no types
    ask = any_group.manager(f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0").ask
    with pytest.raises(NoPermissionError):
        await commit(ask, STREAM, GROUP, "pod-a", message_id, FULL)
    assert await whole(any_group) == KEPT


async def test_a_server_out_of_memory_refuses_whole_and_still_deletes(any_group: Group, message_id: str) -> None:
    await any_group.client.config_set("maxmemory", 1)
    with pytest.raises(ResponseError) as raised:
        await committed(any_group, message_id, FULL)
    assert str(raised.value).removeprefix("OOM ").startswith("command not allowed when used memory > 'maxmemory'")
    assert await whole(any_group) == KEPT
    assert await committed(any_group, message_id, Effects().delete("old"))
    await any_group.client.config_set("maxmemory", 0)
    assert await whole(any_group) == {STREAM: "stream", MEMORY: "zset"}


async def test_a_replica_refuses_whole(any_group: Group, message_id: str) -> None:
    await any_group.client.config_set("replica-serve-stale-data", "yes")
    await any_group.client.replicaof("127.0.0.1", "1")
    with pytest.raises(ResponseError) as raised:
        await committed(any_group, message_id, FULL)
    assert str(raised.value).removeprefix("READONLY ").startswith("You can't write against a read only replica")
    await any_group.client.replicaof("NO", "ONE")
    assert await whole(any_group) == KEPT


async def test_a_lost_group_is_told(any_group: Group, message_id: str) -> None:
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    with pytest.raises(ResponseError, match="NOGROUP"):
        await committed(any_group, message_id, FULL)
    assert await whole(any_group) == KEPT


# -- kill -9 ---------------------------------------------------------------------------------------------------------


class Child:
    """A consumer in a process of its own, which says what it is about to do."""

    def __init__(self, url: str, stop_at: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), url, STREAM, GROUP, stop_at],
            env={"PYTHONPATH": str(SOURCES)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self, word: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline().strip() == word

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@ON_ONE_SERVER
@pytest.mark.parametrize("stop_at", ["before", "after"])
async def test_a_process_that_is_killed_beside_its_commit_has_its_effect_once(any_group: Group, stop_at: str) -> None:
    await any_group.create()
    await any_group.add(1)
    child = Child(any_group.url, stop_at)
    child.says(stop_at)
    child.kill()
    assert await any_group.client.get("count") == (None if stop_at == "before" else "1")
    again = Child(any_group.url, "never")
    again.says("done")
    again.end()
    assert await any_group.client.get("count") == "1"
    assert await any_group.client.xlen("out") == 1
    assert await any_group.pending() == 0


@ON_ONE_SERVER
async def test_processes_that_are_killed_at_any_time_have_each_effect_once(any_group: Group) -> None:
    await any_group.create()
    ids = await any_group.add(1500)
    chance = random.Random(4)
    for _ in range(6):
        child = Child(any_group.url, "never")
        begin = int(await any_group.client.get("count") or 0)
        target = min(begin + chance.randrange(1, 50), len(ids))

        async def has_gone_on(target: int = target) -> bool:
            return int(await any_group.client.get("count") or 0) >= target

        await eventually(has_gone_on)
        child.kill()
    last = Child(any_group.url, "never")
    last.says("done")
    last.end()
    assert await any_group.client.get("count") == str(len(ids))
    made: Any = await any_group.client.xrange("out")
    assert sorted(fields["from"] for _, fields in made) == sorted(ids)
    assert await any_group.pending() == 0
