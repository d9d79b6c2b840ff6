"""Effects are applied together with the acknowledgement, exactly once, or not at all."""

import asyncio
import random
import re
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ClusterCrossSlotError, NoPermissionError, ResponseError

from streamconsumer.errors import EffectsRejected
from streamconsumer.processor.consumer import effects_commit as applying
from streamconsumer.processor.consumer.effects_commit import REQUIRED_PERMISSIONS, commit_effects
from streamconsumer.processor.consumer.large_entries import BoundedReads
from streamconsumer.processor.consumer.memory_limit import memory_limits
from streamconsumer.processor.consumer.pending_entries import Dead, PendingEntries, PendingEntry
from streamconsumer.processor.consumer.read_size import ReadSize
from streamconsumer.processor.handler.effects import MAX_INCREMENT, Effects
from streamconsumer.processor.message import ConsumerId
from streamconsumer.redis_client.errors_table import classify_error
from streamconsumer.redis_client.keys import group_key, hash_slot
from streamconsumer.redis_client.outcome import Outcome
from streamconsumer.redis_client.replies import Execute, UnexpectedReply
from streamconsumer.redis_client.scripts import load_script
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import SOURCES

MEMORY, COMPANIONS = group_key(STREAM, GROUP, "committed"), group_key(STREAM, GROUP, "*")
CHILD = Path(__file__).with_name("effects_child.py")


def test_hash_slot_matches_cluster_keyslot() -> None:
    """The numbers are those that CLUSTER KEYSLOT of Redis 7.0 returned."""
    keys = {b"123456789": 12739, b"orders": 105, b"{orders}:billing:x": 105, b"a{}b": 13694, b"{}{orders}": 12660}
    assert [hash_slot(key) for key in keys] == [*keys.values()]
    assert hash_slot(b"x{orders}{y}") == hash_slot(b"orders")
    assert hash_slot(b"{{orders}}") == hash_slot(b"{orders")


# -- committing ------------------------------------------------------------------------------------------------------


async def start_entry(group: Group, count: int = 1, consumer: str = "pod-a") -> list[str]:
    await group.create_group()
    await group.add(count)
    return await group.read_as(consumer, count)


async def commit_on(group: Group, message_id: str, effects: Effects) -> Outcome:
    return await commit_effects(group.manager().execute, ConsumerId(STREAM, GROUP, "pod-a"), message_id, effects)


async def claim_as(group: Group, consumer: str, message_id: str) -> None:
    """Claim an entry as a processor does."""
    manager, limits = group.manager(), memory_limits(group.delivery.max_entry_bytes)
    reads = BoundedReads(manager, limits, ReadSize(limits))
    pending = PendingEntries(manager.execute, reads, STREAM, GROUP, consumer)
    [owner] = [entry.consumer for entry in await group.entries() if entry.message_id == message_id]
    await pending.claim([PendingEntry(message_id, 1)], Dead(owner, timedelta(0)))
    await reads.connection.close()


async def server_content(group: Group) -> dict[str, Any]:
    """Return all keys of the server and their values."""
    keys: Any = await group.client.keys()
    return {key: await group.client.type(key) for key in keys}


async def test_effects_and_acknowledgement_happen_together(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
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
    assert await commit_on(any_group, message_id, effects) is Outcome.DONE
    assert await any_group.pending() == 0
    assert await client.xlen("invoices") == 2
    assert await client.mget("last", "soon", "count", "new", "old") == ["7", "gone", "42", "-3", None]
    assert await client.ttl("last") == -1
    assert 55 < await client.ttl("soon") <= 60


async def test_empty_effects_only_acknowledge(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
    assert await commit_on(any_group, message_id, Effects()) is Outcome.DONE
    assert await any_group.pending() == 0


async def test_effect_adds_an_entry_with_the_maximum_number_of_fields(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
    effects = Effects()
    for number in range(50):
        effects.add(f"out-{number}", {str(each): "v" for each in range(1000)})
    assert await commit_on(any_group, message_id, effects) is Outcome.DONE
    assert await any_group.client.xlen("out-49") == 1


async def test_effects_are_not_applied_when_another_consumer_owns_the_entry(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
    await any_group.claim([message_id], "pod-b")
    assert await commit_on(any_group, message_id, Effects().increment("count").add("out", {"a": "b"})) is Outcome.LOST
    assert await server_content(any_group) == {STREAM: "stream"}
    assert [each.consumer for each in await any_group.entries()] == ["pod-b"]


async def test_effects_are_applied_when_another_program_has_acknowledged_the_entry(any_group: Group) -> None:
    """Such an entry looks like an entry whose group or consumer was deleted."""
    [message_id] = await start_entry(any_group)
    await any_group.client.xack(STREAM, GROUP, message_id)
    assert await commit_on(any_group, message_id, Effects().increment("count")) is Outcome.DONE
    assert await any_group.client.get("count") == "1"


@pytest.mark.parametrize("loss", ["consumer deleted", "group destroyed", "entry trimmed"])
async def test_effects_are_applied_once_when_the_entry_has_no_owner(any_group: Group, loss: str) -> None:
    [message_id] = await start_entry(any_group)
    client = any_group.client
    if loss == "consumer deleted":
        await client.xgroup_delconsumer(STREAM, GROUP, "pod-a")
    elif loss == "group destroyed":
        await client.xgroup_destroy(STREAM, GROUP)
        await client.xgroup_create(STREAM, GROUP, "$")
    else:
        await client.xdel(STREAM, message_id)
        await client.xack(STREAM, GROUP, message_id)
    for _ in range(2):
        assert await commit_on(any_group, message_id, Effects().increment("count")) is Outcome.DONE
    assert await client.get("count") == "1"


async def test_effects_are_not_applied_when_a_peer_has_claimed_and_settled_the_entry(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
    await claim_as(any_group, "pod-b", message_id)
    await any_group.client.xack(STREAM, GROUP, message_id)
    assert await commit_on(any_group, message_id, Effects().increment("count")) is Outcome.LOST
    assert await any_group.client.get("count") is None


async def test_effects_with_two_increments_need_the_permission_only_once_checked(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
    effects = Effects().increment("first").increment("second")
    assert await commit_on(any_group, message_id, effects) is Outcome.DONE
    assert await any_group.client.mget(["first", "second"]) == ["1", "1"]


async def test_effects_are_applied_once_when_two_consumers_commit_them(any_group: Group) -> None:
    ids = await start_entry(any_group, 50)
    execute = any_group.manager().execute

    async def one(consumer: str, message_id: str) -> Outcome:
        await any_group.claim([message_id], consumer)
        return await commit_effects(
            execute, ConsumerId(STREAM, GROUP, consumer), message_id, Effects().increment("count")
        )

    for message_id in ids:
        await asyncio.gather(one("pod-a", message_id), one("pod-b", message_id))
    assert await any_group.client.get("count") == "50"


async def test_repeated_commit_applies_nothing_more_after_a_lost_reply(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
    effects = Effects().increment("count")
    for _ in range(2):
        assert await commit_on(any_group, message_id, effects) is Outcome.DONE
    assert await any_group.client.get("count") == "1"


async def test_repeated_commit_applies_nothing_more_after_a_late_renewal(any_group: Group) -> None:
    [message_id] = await start_entry(any_group)
    effects = Effects().increment("count")
    assert await commit_on(any_group, message_id, effects) is Outcome.DONE
    await any_group.client.xclaim(STREAM, GROUP, "pod-a", 0, [message_id], force=True, justid=True)
    assert await any_group.pending() == 1
    assert await commit_on(any_group, message_id, effects) is Outcome.DONE
    assert await any_group.pending() == 0
    assert await any_group.client.get("count") == "1"


async def test_only_the_last_commits_are_remembered(any_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "COMMIT", load_script("commit_effects", MAX_REMEMBERED_COMMITS=3))
    ids = await start_entry(any_group, 5)
    for message_id in ids:
        assert await commit_on(any_group, message_id, Effects()) is Outcome.DONE
    assert sorted(await any_group.client.zrange(MEMORY, 0, -1)) == ids[2:]


# -- rejecting -------------------------------------------------------------------------------------------------------

FULL = Effects().add("out", {"a": "b"}).set("value", "v").increment("count").delete("old")
"""An effect of each kind. A leftover of any of them shows a rejection that came too late."""

KEPT = {"old": "string", STREAM: "stream"}


async def rejection_of(group: Group, message_id: str, effects: Effects) -> str:
    with pytest.raises(EffectsRejected) as raised:
        await commit_on(group, message_id, effects)
    assert await group.pending() == 1
    return str(raised.value)


@pytest.fixture
async def message_id(any_group: Group) -> str:
    [message_id] = await start_entry(any_group)
    await any_group.client.set("old", "x")
    return message_id


@pytest.mark.parametrize(
    ("key", "command", "expected"),
    [("out", "XADD", "a stream"), ("value", "SET", "a string"), ("count", "INCRBY", "a whole number")],
)
async def test_key_of_another_type_rejects_all_effects(
    any_group: Group, message_id: str, key: str, command: str, expected: str
) -> None:
    await any_group.client.lpush(key, "x")
    sentence = await rejection_of(any_group, message_id, FULL)
    requirement = f"{command} requires that the key does not exist or holds {expected}"
    assert f"message {message_id}: the key '{key}' holds a list; {requirement}" in sentence
    assert "No effect was applied" in sentence
    assert await server_content(any_group) == {**KEPT, key: "list"}


@pytest.mark.parametrize("value", ["ten", "", "1.5", " 1", "+1", "01", "-0", "9" * 19, "1" * 30, "1\n"])
async def test_value_that_is_not_a_number_rejects_all_effects(any_group: Group, message_id: str, value: str) -> None:
    await any_group.client.set("count", value)
    assert "the key 'count' holds no number" in await rejection_of(any_group, message_id, FULL)
    assert await server_content(any_group) == {**KEPT, "count": "string"}
    assert await any_group.client.get("count") == value


@pytest.mark.parametrize("value", ["0", "-7", "9" * 18, "-" + "9" * 18])
async def test_whole_numbers_are_incremented(any_group: Group, message_id: str, value: str) -> None:
    await any_group.client.set("count", value)
    assert await commit_on(any_group, message_id, Effects().increment("count", MAX_INCREMENT)) is Outcome.DONE
    assert await any_group.client.get("count") == str(int(value) + MAX_INCREMENT)


async def test_effects_on_the_own_stream_may_only_add_entries(any_group: Group, message_id: str) -> None:
    for effects in (Effects().delete(STREAM), Effects().set(STREAM, "x"), Effects().increment(STREAM)):
        assert "'orders' is the stream that the group reads" in await rejection_of(any_group, message_id, effects)
    trimming = await rejection_of(any_group, message_id, Effects().add(STREAM, {"a": "b"}, max_length=1))
    assert "set spec.retention" in trimming
    assert "is reserved for StreamConsumer" in await rejection_of(any_group, message_id, Effects().delete(MEMORY))
    assert await commit_on(any_group, message_id, Effects().add(STREAM, {"a": "b"})) is Outcome.DONE
    assert await any_group.client.xlen(STREAM) == 2


# -- failures that the message did not cause --------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", REQUIRED_PERMISSIONS.split())
async def test_missing_permission_rejects_all_effects(any_group: Group, message_id: str, lacking: str) -> None:
    rights = [each for each in REQUIRED_PERMISSIONS.split() if each != lacking]
    keys = [f"~{key}" for key in (STREAM, COMPANIONS, "out", "value", "count", "old")]
    await any_group.client.execute_command("ACL", "SETUSER", "shop", "on", ">pw", *keys, "-@all", *rights)  # type: ignore[no-untyped-call] # ships no types
    await any_group.client.set("count", "1")
    await any_group.client.script_flush()
    execute = any_group.manager(f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0").execute
    with pytest.raises(NoPermissionError) as raised:
        await commit_effects(execute, ConsumerId(STREAM, GROUP, "pod-a"), message_id, FULL)
    assert "requires the permissions +eval" in str(raised.value)
    assert classify_error(raised.value, "here").code == "NOPERM"
    assert await server_content(any_group) == {**KEPT, "count": "string"}
    assert await any_group.client.get("count") == "1"
    assert await any_group.pending() == 1
    await any_group.client.execute_command("ACL", "SETUSER", "shop", lacking)  # type: ignore[no-untyped-call] # ships no types
    assert await commit_effects(execute, ConsumerId(STREAM, GROUP, "pod-a"), message_id, FULL) is Outcome.DONE
    assert await server_content(any_group) == dict.fromkeys(("count", "value"), "string") | {
        "out": "stream",
        STREAM: "stream",
        MEMORY: "zset",
    }


async def test_inaccessible_key_rejects_all_effects(any_group: Group, message_id: str) -> None:
    keys = [f"~{key}" for key in (STREAM, COMPANIONS, "out", "value", "old")]
    await any_group.client.execute_command(
        "ACL", "SETUSER", "shop", "on", ">pw", *keys, "-@all", *REQUIRED_PERMISSIONS.split()
    )  # type: ignore[no-untyped-call] # ships no types
    execute = any_group.manager(f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0").execute
    with pytest.raises(NoPermissionError):
        await commit_effects(execute, ConsumerId(STREAM, GROUP, "pod-a"), message_id, FULL)
    assert await server_content(any_group) == KEPT


async def test_server_out_of_memory_rejects_all_effects_except_deletions(any_group: Group, message_id: str) -> None:
    await any_group.client.config_set("maxmemory", 1)
    with pytest.raises(ResponseError) as raised:
        await commit_on(any_group, message_id, FULL)
    assert str(raised.value).removeprefix("OOM ").startswith("command not allowed when used memory > 'maxmemory'")
    assert await server_content(any_group) == KEPT
    assert await commit_on(any_group, message_id, Effects().delete("old")) is Outcome.DONE
    await any_group.client.config_set("maxmemory", 0)
    assert await server_content(any_group) == {STREAM: "stream", MEMORY: "zset"}


async def test_replica_rejects_all_effects(any_group: Group, message_id: str) -> None:
    await any_group.client.config_set("replica-serve-stale-data", "yes")
    await any_group.client.replicaof("127.0.0.1", "1")
    with pytest.raises(ResponseError) as raised:
        await commit_on(any_group, message_id, FULL)
    assert str(raised.value).removeprefix("READONLY ").startswith("You can't write against a read only replica")
    await any_group.client.replicaof("NO", "ONE")
    assert await server_content(any_group) == KEPT


async def test_missing_group_raises_nogroup(any_group: Group, message_id: str) -> None:
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    with pytest.raises(ResponseError, match="NOGROUP"):
        await commit_on(any_group, message_id, FULL)
    assert await server_content(any_group) == KEPT


# -- kill -9 ---------------------------------------------------------------------------------------------------------


class Child:
    """Consumer in a separate process, which announces each step."""

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
async def test_effect_is_applied_once_when_the_process_is_killed_next_to_its_commit(
    any_group: Group, stop_at: str
) -> None:
    await any_group.create_group()
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
async def test_each_effect_is_applied_once_when_processes_are_killed_at_any_time(any_group: Group) -> None:
    await any_group.create_group()
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


# -- replies -----------------------------------------------------------------------------------------------------------


def replying(reply: Any) -> Execute:
    """Return a function that replies to each command, or raises the reply if it is an error."""

    async def execute(*_command: Any) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    return execute


async def commit_with(reply: Any, effects: Effects) -> Outcome:
    return await commit_effects(replying(reply), ConsumerId(STREAM, GROUP, "pod-a"), "1-0", effects)


@pytest.mark.parametrize(
    ("reply", "outcome", "logged"),
    [
        (b"done", Outcome.DONE, []),
        (b"before", Outcome.DONE, ["effects were already committed; acknowledging the message"]),
        (b"lost", Outcome.LOST, []),
    ],
)
async def test_outcome_of_the_script_is_returned(
    caplog: pytest.LogCaptureFixture, reply: bytes, outcome: Outcome, logged: list[str]
) -> None:
    caplog.set_level("INFO", applying.__name__)
    assert await commit_with(reply, FULL) is outcome
    assert [record.message for record in caplog.records] == logged


@pytest.mark.parametrize("reply", [b"other", None, [b"HSET", b"key", b"hash"], [b"SET"]])
async def test_odd_reply_is_an_error(reply: Any) -> None:
    with pytest.raises(UnexpectedReply):
        await commit_with(reply, FULL)


@pytest.mark.parametrize(
    ("reply", "effects", "text"),
    [
        ([b"SET", b"key", b"list"], FULL, "message 1-0: the key 'key' holds a list; SET requires"),
        ([b"INCRBY", b"key", b"no number"], FULL, "the key 'key' holds no number; INCRBY requires"),
        (ClusterCrossSlotError("CROSSSLOT"), FULL, "an effect writes a key outside the hash slot of stream 'orders'"),
        (b"done", Effects().delete(STREAM), "an effect cannot apply DEL to this key"),
        (b"done", Effects().add(STREAM, {"a": "b"}, max_length=1), "an effect cannot trim this stream"),
        (b"done", Effects().set(MEMORY, "x"), "is reserved for StreamConsumer"),
    ],
)
async def test_rejection_names_the_message_and_the_cause(reply: Any, effects: Effects, text: str) -> None:
    with pytest.raises(EffectsRejected, match=re.escape(text)):
        await commit_with(reply, effects)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoPermissionError("NOPERM User shop has no permissions"), "requires the permissions +eval"),
        (ResponseError("OOM command not allowed"), "OOM command not allowed"),
    ],
)
async def test_error_of_the_server_is_raised(error: ResponseError, expected: str) -> None:
    with pytest.raises(type(error), match=re.escape(expected)):
        await commit_with(error, FULL)


async def test_effects_may_add_entries_to_any_stream_and_limit_other_streams() -> None:
    effects = Effects().add(STREAM, {"a": "b"}).add("other", {"a": "b"}, max_length=1)
    assert await commit_with(b"done", effects) is Outcome.DONE
