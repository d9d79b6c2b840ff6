"""The smallest permissions that a processor works with."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from streamconsumer.processor import Defer
from streamconsumer.processor.consumer import effects_commit
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder, fail_every_delivery

SMALLEST = [
    *("+xreadgroup", "+xack", "+xclaim", "+xpending", "+xrange", "+xadd"),
    *(
        "+xgroup|create",
        "+xgroup|createconsumer",
        "+xgroup|delconsumer",
        "+xinfo|stream",
        "+xinfo|groups",
        "+xinfo|consumers",
    ),
    *("+hset", "+hget", "+hscan", "+hdel", "+hlen"),
    *("+zadd", "+zrem", "+zrangebyscore", "+zremrangebyscore", "+zremrangebyrank", "+zscore", "+zscan"),
    *("+expire", "+rename", "+del", "+time"),
    *("+eval", "+evalsha", "+client|id", "+client|unblock", "+client|list", "+client|setname", "+info"),
]
"""On these keys; docs/redis.md says the same."""

KEYS = (f"~{STREAM}", f"~{{{STREAM}}}:{GROUP}:*")

DOCUMENT = Path(__file__).parents[3] / "docs/redis.md"


@pytest.fixture
async def restricted(any_group: Group) -> Group:
    """Return the group, whose processors have only these permissions."""
    user = ("ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all")
    await any_group.client.execute_command(*user, *SMALLEST)  # type: ignore[no-untyped-call] # ships no types
    any_group.url = f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0"
    return any_group


async def test_messages_are_handled_and_an_idle_processor_stops_immediately(restricted: Group) -> None:
    handler = Recorder()
    processor = await restricted.start(handler, poll=30)
    await restricted.add(20)
    await handler.wait_until_finished(20)
    await restricted.wait_settled()
    await asyncio.wait_for(processor.stop_listening(), TIMEOUT_SECONDS)
    assert processor.metrics.redis_errors == 0


@ON_ONE_SERVER
async def test_long_handler_keeps_its_messages(restricted: Group) -> None:
    handler, peer = Recorder(gate=False), Recorder()
    ids = await restricted.add(3)
    await restricted.start(handler, min_idle=1.5)
    await handler.wait_until_received(1)
    await restricted.start(peer, "pod-b", min_idle=1.5)
    await asyncio.sleep(2 * 1.5)
    assert not peer.received
    handler.gate.set()
    await handler.wait_until_finished(3)
    await restricted.wait_settled()
    assert handler.ids == ids


async def test_message_claimed_by_a_peer_is_cancelled_and_not_claimed_back(restricted: Group) -> None:
    handler = Recorder(gate=False)
    await restricted.start(handler, min_idle=1)
    [taken] = await restricted.add()
    await handler.wait_until_received(1)
    await restricted.claim([taken], "pod-b")
    await eventually(lambda: handler.cancelled == [taken])
    assert [(each.message_id, each.consumer) for each in await restricted.entries()] == [(taken, "pod-b")]


async def test_unstarted_entries_are_released(restricted: Group) -> None:
    handler = Recorder(gate=False)
    running, *unbegun = await restricted.add(4)
    processor = await restricted.start(handler, min_idle=2)
    await handler.wait_until_received(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor.metrics.released == 3)
    peer = Recorder()
    await restricted.start(peer, "pod-b", min_idle=2)
    await peer.wait_until_finished(3)
    assert peer.ids == unbegun
    assert {message.deliveries for message in peer.received} == {1}
    handler.gate.set()
    await stopping
    assert handler.finished == [running]


async def test_deferred_message_counts_no_attempt(restricted: Group) -> None:
    async def is_taken_back() -> bool:
        return [each.deliveries for each in await restricted.entries()] == [0]

    await restricted.add()
    await restricted.start(Recorder(fail_every_delivery(Defer(timedelta(seconds=2)))))
    await eventually(is_taken_back)


async def test_destroyed_group_is_recreated(restricted: Group) -> None:
    handler = Recorder()
    await restricted.start(handler, poll=0.5)
    await restricted.wait_until_reading()
    await restricted.client.xgroup_destroy(STREAM, GROUP)
    ids = await restricted.add(3)
    await handler.wait_until_finished(3)
    assert handler.ids == ids


def test_docs_list_exactly_these_permissions() -> None:
    text = DOCUMENT.read_text()
    [words] = [line.split() for line in text.splitlines() if line.startswith("ACL SETUSER shop ")]
    assert [word for word in words if word.startswith("+")] == SMALLEST
    assert [word for word in words if word.startswith("~")] == list(KEYS)
    [more] = [line for line in text.splitlines() if line.startswith("| Handlers that return")]
    needed = effects_commit.REQUIRED_PERMISSIONS.split()
    assert [right for right in needed if right not in SMALLEST] == [
        right for right in more.replace("`", " ").split() if right.startswith("+")
    ]


@ON_ONE_SERVER
async def test_postponed_entry_without_a_due_time_is_due_after_min_idle(restricted: Group) -> None:
    """The schedule was deleted or evicted."""
    await restricted.create_group()
    [message_id] = await restricted.add()
    await restricted.read_as("dead")
    await restricted.client.xclaim(STREAM, GROUP, POSTPONED_CONSUMER, 0, [message_id])
    handler = Recorder()
    await restricted.start(handler, min_idle=1)
    await handler.wait_until_finished(1)
    await restricted.wait_settled()
