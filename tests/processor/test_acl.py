"""The smallest rights that a processor works with, and what remains without Lua."""

import asyncio

import pytest

from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder

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
    *("+hset", "+hgetall", "+hdel", "+zadd", "+zrem", "+zrange", "+zrangebyscore", "+zscore", "+time"),
    *("+eval", "+client|id", "+client|unblock"),
]
"""As in docs/redis.md, on these keys."""

KEYS = (f"~{STREAM}", f"~{{{STREAM}}}:{GROUP}:*")

WITHOUT_EVAL = [right for right in SMALLEST if right not in ("+eval", "+xgroup|delconsumer")]


@pytest.fixture(params=[SMALLEST, WITHOUT_EVAL], ids=["the smallest rights", "without EVAL"])
async def restricted(request: pytest.FixtureRequest, any_group: Group) -> Group:
    """The group, whose processors may do only this."""
    user = ("ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all")
    await any_group.client.execute_command(*user, *request.param)  # type: ignore[no-untyped-call] # ships no types
    any_group.url = f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0"
    return any_group


async def test_messages_are_handled_and_an_idle_processor_stops_at_once(restricted: Group) -> None:
    handler = Recorder()
    processor = await restricted.start(handler, poll=30)
    await restricted.add(20)
    await handler.has_finished(20)
    await restricted.settled()
    await asyncio.wait_for(processor.stop_listening(), 2)
    assert processor.metrics.faults == 0


async def test_a_long_handler_keeps_its_messages(restricted: Group) -> None:
    handler, peer = Recorder(gate=False), Recorder()
    ids = await restricted.add(3)
    await restricted.start(handler, min_idle=0.5)
    await handler.has_seen(1)
    await restricted.start(peer, "pod-b", min_idle=0.5)
    await asyncio.sleep(4 * 0.5)
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


async def test_a_group_that_is_destroyed_is_created_again(restricted: Group) -> None:
    handler = Recorder()
    await restricted.start(handler, poll=0.5)
    await restricted.is_reading()
    await restricted.client.xgroup_destroy(STREAM, GROUP)
    ids = await restricted.add(3)
    await handler.has_finished(3)
    assert handler.ids == ids


async def test_the_processor_says_what_it_lacks(any_group: Group, caplog: pytest.LogCaptureFixture) -> None:
    user = ("ACL", "SETUSER", "shop", "on", ">pw", *KEYS, "-@all")
    await any_group.client.execute_command(*user, *WITHOUT_EVAL)  # type: ignore[no-untyped-call] # ships no types
    any_group.url = f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0"
    handler = Recorder(gate=False)
    await any_group.start(handler, min_idle=0.5)
    await any_group.add()
    await handler.has_seen(1)
    await eventually(lambda: "grant +eval" in caplog.text)
    handler.gate.set()
