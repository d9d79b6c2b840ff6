"""The smallest rights that a processor works with."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from streamconsumer.processor import Defer
from streamconsumer.processor.stream import effects
from streamconsumer.server.keys import POSTPONED
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import PATIENCE_SECONDS, eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder, always

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
    *("+hset", "+hget", "+hgetall", "+hdel", "+zadd", "+zrem", "+zrangebyscore", "+zremrangebyscore", "+zscore"),
    "+time",
    *("+eval", "+client|id", "+client|unblock"),
]
"""On these keys; docs/redis.md says the same."""

KEYS = (f"~{STREAM}", f"~{{{STREAM}}}:{GROUP}:*")

DOCUMENT = Path(__file__).parents[2] / "docs/redis.md"


@pytest.fixture
async def restricted(any_group: Group) -> Group:
    """The group, whose processors may do only this."""
    user = ("ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all")
    await any_group.client.execute_command(*user, *SMALLEST)  # type: ignore[no-untyped-call] # ships no types
    any_group.url = f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0"
    return any_group


async def test_messages_are_handled_and_an_idle_processor_stops_at_once(restricted: Group) -> None:
    handler = Recorder()
    processor = await restricted.start(handler, poll=30)
    await restricted.add(20)
    await handler.has_finished(20)
    await restricted.settled()
    await asyncio.wait_for(processor.stop_listening(), PATIENCE_SECONDS)
    assert processor.metrics.faults == 0


@ON_ONE_SERVER
async def test_a_long_handler_keeps_its_messages(restricted: Group) -> None:
    handler, peer = Recorder(gate=False), Recorder()
    ids = await restricted.add(3)
    await restricted.start(handler, min_idle=1.5)
    await handler.has_seen(1)
    await restricted.start(peer, "pod-b", min_idle=1.5)
    await asyncio.sleep(2 * 1.5)
    assert not peer.seen
    handler.gate.set()
    await handler.has_finished(3)
    await restricted.settled()
    assert handler.ids == ids


async def test_a_message_that_another_took_is_cancelled_and_not_taken_back(restricted: Group) -> None:
    handler = Recorder(gate=False)
    await restricted.start(handler, min_idle=1)
    [taken] = await restricted.add()
    await handler.has_seen(1)
    await restricted.take([taken], "pod-b")
    await eventually(lambda: handler.cancelled == [taken])
    assert [(each.message_id, each.consumer) for each in await restricted.entries()] == [(taken, "pod-b")]


async def test_what_has_not_begun_is_handed_back(restricted: Group) -> None:
    handler = Recorder(gate=False)
    running, *unbegun = await restricted.add(4)
    processor = await restricted.start(handler, min_idle=2)
    await handler.has_seen(1)
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor.metrics.released == 3)
    peer = Recorder()
    await restricted.start(peer, "pod-b", min_idle=2)
    await peer.has_finished(3)
    assert peer.ids == unbegun
    assert {message.deliveries for message in peer.seen} == {1}
    handler.gate.set()
    await stopping
    assert handler.finished == [running]


async def test_a_message_that_is_put_off_has_not_been_tried(restricted: Group) -> None:
    async def is_taken_back() -> bool:
        return [each.deliveries for each in await restricted.entries()] == [0]

    await restricted.add()
    await restricted.start(Recorder(always(Defer(timedelta(seconds=2)))))
    await eventually(is_taken_back)


async def test_a_group_that_is_destroyed_is_created_again(restricted: Group) -> None:
    handler = Recorder()
    await restricted.start(handler, poll=0.5)
    await restricted.is_reading()
    await restricted.client.xgroup_destroy(STREAM, GROUP)
    ids = await restricted.add(3)
    await handler.has_finished(3)
    assert handler.ids == ids


def test_the_document_names_these_rights_and_no_others() -> None:
    text = DOCUMENT.read_text()
    [told] = [line.split() for line in text.splitlines() if line.startswith("ACL SETUSER shop ")]
    assert [word for word in told if word.startswith("+")] == SMALLEST
    assert [word for word in told if word.startswith("~")] == list(KEYS)
    [more] = [line for line in text.splitlines() if line.startswith("| handlers that return")]
    needed = effects.RIGHTS.split()
    assert [right for right in needed if right not in SMALLEST] == [
        right for right in more.replace("`", " ").split() if right.startswith("+")
    ]


@ON_ONE_SERVER
async def test_a_postponed_entry_without_a_due_time_is_due_after_min_idle(restricted: Group) -> None:
    """The schedule was deleted or evicted."""
    await restricted.create()
    [message_id] = await restricted.add()
    await restricted.read_as("dead")
    await restricted.client.xclaim(STREAM, GROUP, POSTPONED, 0, [message_id])
    handler = Recorder()
    await restricted.start(handler, min_idle=1)
    await handler.has_finished(1)
    await restricted.settled()
