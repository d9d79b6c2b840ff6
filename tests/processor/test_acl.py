"""The smallest rights that a processor works with, and what remains without Lua."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from streamconsumer.processor import Defer, Message, Reject, Retry
from streamconsumer.processor.stream import effects
from streamconsumer.server.keys import POSTPONED
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
    *("+hset", "+hgetall", "+hdel", "+zadd", "+zrem", "+zrange", "+zrangebyscore", "+zscore", "+time"),
    *("+eval", "+client|id", "+client|unblock"),
]
"""On these keys; docs/redis.md says the same."""

KEYS = (f"~{STREAM}", f"~{{{STREAM}}}:{GROUP}:*")

WITHOUT_EVAL = [right for right in SMALLEST if right not in ("+eval", "+xgroup|delconsumer")]


DOCUMENT = Path(__file__).parents[2] / "docs/redis.md"


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
    await asyncio.wait_for(processor.stop_listening(), PATIENCE_SECONDS)
    assert processor.metrics.faults == 0


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


async def test_without_the_keys_beside_the_stream_waits_are_spent_in_the_pod_and_nothing_is_lost(
    any_group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    user = ("ACL", "SETUSER", "shop", "on", ">pw", f"~{STREAM}", "-@all")
    await any_group.client.execute_command(*user, *SMALLEST)  # type: ignore[no-untyped-call] # ships no types
    any_group.url = f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0"

    def fails(message: Message) -> BaseException | None:
        if message.data["n"] == "0":
            return Reject("no such customer")
        return Retry(after=timedelta(seconds=2.1)) if message.deliveries == 1 else None

    handler = Recorder(fails)
    rejected, retried = await any_group.add(2)
    await any_group.start(handler)
    await handler.has_finished(1)
    assert handler.finished == [retried]

    async def only_the_rejected_one_is_pending() -> bool:
        return [each.message_id for each in await any_group.entries()] == [rejected]

    await eventually(only_the_rejected_one_is_pending)
    for told in ("a wait could not be written down; it is spent here", "a dead letter could not be written"):
        assert told in caplog.text


def test_the_document_names_these_rights_and_no_others() -> None:
    text = DOCUMENT.read_text()
    [told] = [line.split() for line in text.splitlines() if line.startswith("ACL SETUSER")]
    assert [word for word in told if word.startswith("+")] == SMALLEST
    assert [word for word in told if word.startswith("~")] == list(KEYS)
    [more] = [line for line in text.splitlines() if line.startswith("| handlers that return")]
    needed = effects.RIGHTS.split()
    assert [right for right in needed if right not in SMALLEST] == [
        right for right in more.replace("`", " ").split() if right.startswith("+")
    ]


async def test_without_the_keys_beside_the_stream_a_lost_group_is_created_again(any_group: Group) -> None:
    user = ("ACL", "SETUSER", "shop", "on", ">pw", f"~{STREAM}", "-@all")
    await any_group.client.execute_command(*user, *SMALLEST)  # type: ignore[no-untyped-call] # ships no types
    any_group.url = f"redis://shop:pw@{any_group.server.host}:{any_group.server.port}/0"
    handler = Recorder()
    await any_group.start(handler, poll=0.5)
    await any_group.is_reading()
    await any_group.client.xgroup_destroy(STREAM, GROUP)
    ids = await any_group.add(3)
    await handler.has_finished(3)
    assert handler.ids == ids


async def test_what_somebody_died_over_who_was_about_to_take_it_is_due_again(restricted: Group) -> None:
    """Its due time is gone, and it is still postponed: kill -9 between two steps."""
    await restricted.create()
    [message_id] = await restricted.add()
    await restricted.read_as("dead")
    await restricted.client.xclaim(STREAM, GROUP, POSTPONED, 0, [message_id])
    handler = Recorder()
    await restricted.start(handler, min_idle=1)
    await handler.has_finished(1)
    await restricted.settled()
