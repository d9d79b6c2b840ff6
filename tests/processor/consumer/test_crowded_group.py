"""Groups with more names than a pod reads: the pod stays fast, keeps consuming and reports the limit."""

import logging
import re
from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Retention
from streamconsumer.processor import Defer
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.processor.consumer.registration import MAX_WAKE_ATTEMPTS
from streamconsumer.processor.consumer.retention import MAX_GROUPS
from streamconsumer.processor.dead_letters.store import DeadLetterStore
from streamconsumer.redis_client.keys import group_key
from streamconsumer.redis_client.scripts import FIND_GROUP, LIST_CONSUMERS, MAX_CONSUMERS, PROBE_GROUP
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder

MANY_FIELDS = 50_000
MEMBERS, REGISTRATIONS = (group_key(STREAM, GROUP, suffix) for suffix in ("consumers", "registrations"))

pytestmark = ON_ONE_SERVER


async def add_consumers(group: Group, count: int) -> None:
    pipeline = group.client.pipeline(transaction=False)
    for number in range(count):
        pipeline.xgroup_createconsumer(STREAM, GROUP, f"leaked-{number}")
    await pipeline.execute()


async def fill_members(group: Group) -> None:
    """Write names that no consumer has to the members hash."""
    for first in range(0, MANY_FIELDS, 10_000):
        await group.client.hset(MEMBERS, mapping={f"leaked-{first + number}": 1 for number in range(10_000)})


async def test_dead_pod_in_a_crowded_group_is_replaced_after_min_idle(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    await any_group.create_group()
    ids = await any_group.add(3)
    await any_group.read_as("pod-a")
    await any_group.client.hset(MEMBERS, "pod-a", "1")
    await add_consumers(any_group, MAX_CONSUMERS + 1)
    ids += await any_group.add(2)
    peer = Recorder()
    with caplog.at_level(logging.ERROR):
        await any_group.start(peer, "pod-b", min_idle=1)
        await peer.wait_until_finished(5)
    assert sorted(peer.ids) == sorted(ids)
    [record] = [record for record in caplog.records if "too many consumers" in record.message]
    assert re.fullmatch(r"found 1000\d consumers", record.error)  # type: ignore[attr-defined]


async def test_postponed_entries_of_a_crowded_group_are_retried(any_group: Group) -> None:
    await any_group.create_group()
    await add_consumers(any_group, MAX_CONSUMERS + 1)
    attempts: list[str] = []

    def handle(data: dict[str, Any]) -> None:
        attempts.append(data["n"])
        if len(attempts) == 1:
            raise Defer(timedelta(seconds=3))

    await any_group.start(handle)
    await any_group.add()
    await eventually(lambda: len(attempts) == 2)
    await any_group.wait_settled()


async def test_group_is_no_longer_crowded_after_the_consumers_were_deleted(any_group: Group) -> None:
    await any_group.create_group()
    await add_consumers(any_group, MAX_CONSUMERS + 1)
    processor = await any_group.start(Recorder(), "pod-b")
    claimer = processor._pipeline.consumer.claimer
    assert claimer is not None
    await eventually(lambda: claimer._is_over_limit)
    await any_group.client.xgroup_delconsumer(STREAM, GROUP, "leaked-0")
    await any_group.client.xgroup_delconsumer(STREAM, GROUP, "leaked-1")
    await any_group.client.xgroup_delconsumer(STREAM, GROUP, "leaked-2")
    await eventually(lambda: not claimer._is_over_limit)


async def test_expired_members_are_deleted_a_few_at_a_time(any_group: Group) -> None:
    await any_group.create_group()
    await fill_members(any_group)
    await any_group.start(Recorder())
    await any_group.add()

    async def is_shrinking() -> bool:
        return int(await any_group.client.hlen(MEMBERS)) < MANY_FIELDS - 200

    await eventually(is_shrinking)


async def register_leaked(group: Group, run_id: str) -> None:
    """Register connections that do not exist."""
    fields: dict[Any, Any] = {f"leaked-{number}": f"1 {run_id} token {10**6 + number} -" for number in range(1000)}
    await group.client.hset(REGISTRATIONS, mapping=fields)


async def test_released_entry_wakes_few_consumers(any_group: Group) -> None:
    """Each of the leaked registrations looks alive, and none of these consumers is reading."""
    await any_group.create_group()
    consumer = (await any_group.start(Recorder()))._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    await any_group.wait_until_reading()
    await register_leaked(any_group, consumer.registration.current.run_id)
    sent: list[Any] = []

    async def counting(commands: Sequence[Sequence[Any]]) -> list[Any]:
        sent.append(commands)
        return await consumer.manager.execute_pipeline(commands)

    await consumer.registration.wake_peer(counting, Random())
    assert len(sent) == 1 + MAX_WAKE_ATTEMPTS


async def test_waiting_consumer_is_woken_although_consumers_of_an_earlier_server_are_registered(
    any_group: Group,
) -> None:
    await any_group.create_group()
    await register_leaked(any_group, "earlier")
    await any_group.start(Recorder(), "pod-b", poll=30)
    consumer = (await any_group.start(Recorder(), "pod-a", poll=30))._pipeline.consumer
    assert isinstance(consumer, RedisConsumer)
    await any_group.wait_until_reading()
    await any_group.reset_command_counts()
    await consumer.registration.wake_peer(consumer.manager.execute_pipeline, Random())

    async def has_read_again() -> bool:
        return (await any_group.command_counts()).get("xreadgroup", 0) >= 1

    await eventually(has_read_again)


async def test_pod_consumes_a_stream_with_many_groups_and_does_not_trim_it(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = any_group.client.pipeline(transaction=False)
    for number in range(MAX_GROUPS + 1):
        pipeline.xgroup_create(STREAM, f"group-{number}", "0", mkstream=True)
    await pipeline.execute()
    handler = Recorder()
    await any_group.start(handler, retention=Retention(acknowledged=True))
    await any_group.add(5)
    await handler.wait_until_finished(5)
    await any_group.wait_settled()
    await eventually(lambda: any("failed to trim" in record.message for record in caplog.records))
    [record, *_] = [record for record in caplog.records if "failed to trim" in record.message]
    assert f"found {MAX_GROUPS + 2}, expected at most {MAX_GROUPS} groups" in record.error  # type: ignore[attr-defined]
    assert await any_group.client.xlen(STREAM) == 5


async def test_error_about_a_missing_group_names_some_of_many_groups(any_group: Group) -> None:
    for number in range(30):
        await any_group.client.xgroup_create(STREAM, f"group-{number:02}", "0", mkstream=True)
    store = DeadLetterStore(any_group.manager().execute, STREAM, "biling", group_key(STREAM, "biling", "dead-letters"))
    with pytest.raises(Exception, match=r"has no group 'biling'; its groups are 'group-00', .*, 10 more$"):
        await store.check()


async def test_scripts_answer_for_a_crowded_group(any_group: Group) -> None:
    await any_group.create_group()
    await any_group.add(2)
    await any_group.read_as("pod-a")
    await add_consumers(any_group, MAX_CONSUMERS)
    execute = any_group.manager().execute
    group, length, pending = await execute("EVAL", PROBE_GROUP, 1, STREAM, GROUP, "~postponed", 500)
    [oldest, _] = await any_group.entries()
    assert (group[:2], length, pending) == ([2, MAX_CONSUMERS + 1], 2, [oldest.message_id.encode(), 2, b""])
    assert (await execute("EVAL", FIND_GROUP, 1, STREAM, GROUP))[1] == MAX_CONSUMERS + 1
    with pytest.raises(Exception, match=f"found {MAX_CONSUMERS + 1} consumers in the group, expected at most"):
        await execute("EVAL", LIST_CONSUMERS, 1, STREAM, GROUP, 10)
    await any_group.client.xack(STREAM, GROUP, *[entry.message_id for entry in await any_group.entries()])
    assert (await execute("EVAL", PROBE_GROUP, 1, STREAM, GROUP, "~postponed", 500))[2] == [None, 0, b""]
