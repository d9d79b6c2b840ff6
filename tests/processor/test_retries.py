"""What becomes of a message that is not handled: tried again, after which wait, how often, and where it waits."""

import asyncio
import time
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.settings import Backoff, Breaker, Delivery
from streamconsumer.processor import Defer, Message, Reject, Retry, current_message
from streamconsumer.server.keys import POSTPONED, companion
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder, always, once

DEAD_LETTERS = companion(STREAM, GROUP, "dead-letters")
QUICKLY = Backoff(min_delay=timedelta(milliseconds=5), max_delay=timedelta(milliseconds=20))


async def dead_letters(group: Group) -> list[dict[str, str]]:
    letters: Any = await group.client.xrange(DEAD_LETTERS)
    return [fields for _, fields in letters]


async def test_a_failed_message_is_tried_again_and_redis_counts_it(any_group: Group) -> None:
    handler = Recorder(lambda message: ValueError("not yet") if message.deliveries < 4 else None)
    [message_id] = await any_group.add()
    processor = await any_group.start(handler)
    await handler.has_finished(1)
    await eventually(lambda: processor.metrics.acknowledged)
    assert [message.deliveries for message in handler.seen] == [1, 2, 3, 4]
    assert handler.finished == [message_id]
    assert (processor.metrics.failed, processor.metrics.retried, processor.metrics.acknowledged) == (3, 3, 1)


async def test_a_message_that_always_fails_becomes_a_dead_letter_with_its_evidence(any_group: Group) -> None:
    any_group.delivery = Delivery(backoff=QUICKLY, max_deliveries=3)
    handler = Recorder(always(ValueError("no such customer")))
    [message_id] = await any_group.add()
    processor = await any_group.start(handler)
    await eventually(lambda: processor.metrics.dead_lettered)
    await any_group.settled()
    assert len(handler.seen) == 3
    [letter] = await dead_letters(any_group)
    assert letter["n"] == "0"
    assert letter["streamconsumer.reason"] == "MaxDeliveries"
    assert letter["streamconsumer.origin-id"] == message_id
    assert letter["streamconsumer.deliveries"] == "3"
    assert "ValueError" in letter["streamconsumer.error-type"]
    assert letter["streamconsumer.error-message"] == "no such customer"


@ON_ONE_SERVER
async def test_a_long_wait_is_written_down_and_survives_the_pod(any_group: Group) -> None:
    """Nobody holds it meanwhile: it is pending with a consumer that nobody is."""
    failing, peer = Recorder(once(Retry("later", after=timedelta(seconds=3)))), Recorder()
    [message_id] = await any_group.add()
    processor = await any_group.start(failing)
    await eventually(lambda: processor.metrics.retried)
    await eventually(lambda: not processor._in_flight.ids())
    assert [(each.message_id, each.consumer) for each in await any_group.entries()] == [(message_id, POSTPONED)]
    failed = time.monotonic()
    processor.hurry()
    await processor.stop_listening()
    await any_group.start(peer, "pod-b")
    await peer.has_finished(1)
    assert time.monotonic() - failed > 2.5
    assert [message.deliveries for message in peer.seen] == [2]
    await any_group.settled()


@ON_ONE_SERVER
async def test_a_postponed_message_whose_due_time_was_deleted_comes_all_the_same(any_group: Group) -> None:
    handler = Recorder(once(Retry(after=timedelta(hours=1))))
    await any_group.add()
    processor = await any_group.start(handler, min_idle=1)
    await eventually(lambda: processor.metrics.retried)
    await eventually(lambda: not processor._in_flight.ids())
    await any_group.client.delete(companion(STREAM, GROUP, "postponed"))
    await handler.has_finished(1)
    await any_group.settled()


async def test_a_rejected_message_is_a_dead_letter_at_once(any_group: Group) -> None:
    handler = Recorder(always(Reject("unknown currency")))
    await any_group.add()
    await any_group.start(handler)
    await handler.has_seen(1)
    await any_group.settled()
    assert len(handler.seen) == 1
    [letter] = await dead_letters(any_group)
    assert letter["streamconsumer.reason"] == "Rejected"


async def test_an_error_named_as_terminal_is_not_tried_again(group: Group) -> None:
    group.delivery = Delivery(terminal_errors=["LookupError"])
    handler = Recorder(lambda message: KeyError("x") if message.data["n"] == "0" else None)
    await group.add(2)
    await group.start(handler)
    await handler.has_seen(2)
    await group.settled()
    assert len(handler.seen) == 2
    [letter] = await dead_letters(group)
    assert letter["streamconsumer.reason"] == "TerminalError"


async def test_deferring_does_not_count_as_an_attempt(any_group: Group) -> None:
    any_group.delivery = Delivery(max_deliveries=2)
    times = 0

    def defer_five_times(_message: Message) -> BaseException | None:
        nonlocal times
        times += 1
        return Defer(timedelta(milliseconds=5)) if times <= 5 else None

    handler = Recorder(defer_five_times)
    await any_group.add()
    await any_group.start(handler)
    await handler.has_finished(1)
    await any_group.settled()
    assert {message.deliveries for message in handler.seen} == {1}
    assert await dead_letters(any_group) == []


async def test_a_dead_letter_that_cannot_be_written_leaves_the_message_pending_until_it_can(group: Group) -> None:
    handler = Recorder(always(Reject("no")))
    await group.client.set(DEAD_LETTERS, "somebody's own")
    [message_id] = await group.add()
    processor = await group.start(handler)
    await handler.has_seen(1)
    await asyncio.sleep(0.2)
    assert [each.message_id for each in await group.entries()] == [message_id]
    assert processor.metrics.dead_lettered == 0
    await group.client.delete(DEAD_LETTERS)
    await group.settled()
    assert len(await dead_letters(group)) == 1
    assert len(handler.seen) == 1, "and the handler was not called again for it"


async def test_an_entry_that_is_too_large_is_a_dead_letter_and_its_neighbours_are_handled(any_group: Group) -> None:
    any_group.delivery = Delivery(max_entry_bytes=2000)
    [small] = await any_group.add()
    await any_group.add(fields={"blob": "x" * 5000})
    [after] = await any_group.add()
    handler = Recorder()
    await any_group.start(handler)
    await handler.has_finished(2)
    await any_group.settled()
    assert handler.ids == [small, after]
    [letter] = await dead_letters(any_group)
    assert letter["streamconsumer.reason"] == "Oversized"


async def test_a_handler_that_takes_too_long_is_cancelled_and_its_message_tried_again(any_group: Group) -> None:
    any_group.delivery = Delivery(timeout=timedelta(milliseconds=200), backoff=QUICKLY)
    cancelled = 0

    async def slow_at_first(_data: dict[str, Any]) -> None:
        nonlocal cancelled
        if current_message().deliveries == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled += 1
                raise

    await any_group.add(3)
    processor = await any_group.start(slow_at_first, concurrency=3)
    await eventually(lambda: processor.metrics.acknowledged == 3)
    assert cancelled == 3
    assert (processor.metrics.failed, processor.metrics.acknowledged) == (3, 3)


async def test_a_handler_that_returns_after_its_time_has_failed_all_the_same(group: Group) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=50), max_deliveries=1)

    async def stubborn(_data: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    await group.add()
    processor = await group.start(stubborn)
    await eventually(lambda: processor.metrics.dead_lettered)
    [letter] = await dead_letters(group)
    assert "TimeoutError" in letter["streamconsumer.error-type"]


async def test_when_everything_fails_the_backlog_keeps_its_attempts(group: Group) -> None:
    """A payment service that is down for a second must not bury a thousand orders."""
    pause = timedelta(milliseconds=100)
    group.delivery = Delivery(
        max_deliveries=2,
        backoff=QUICKLY,
        breaker=Breaker(failures=5, max_pause=pause),
    )
    is_down = True
    handler = Recorder(lambda _: ConnectionError("the bank is down") if is_down else None)
    await group.add(300)
    processor = await group.start(handler, concurrency=2)
    await eventually(lambda: processor.metrics.breaker_opened)
    await asyncio.sleep(1)
    assert len(handler.seen) < 40, "one trial in each pause"
    is_down = False
    await handler.has_finished(295)
    await group.settled()
    assert len(await dead_letters(group)) <= 5


async def test_an_open_breaker_lets_a_waiting_message_be_the_trial(group: Group) -> None:
    pause = timedelta(milliseconds=50)
    group.delivery = Delivery(backoff=QUICKLY, breaker=Breaker(failures=1, max_pause=pause))
    handler = Recorder(lambda _: OSError("down") if len(handler.seen) < 6 else None)
    await group.add(1)
    await group.start(handler)
    await handler.has_finished(1)
    await group.settled()
    assert {message.deliveries for message in handler.seen} <= {1, 2}


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_what_a_handler_leaves_in_context_variables_does_not_reach_the_next_message(
    group: Group, concurrency: int
) -> None:
    left: ContextVar[str] = ContextVar("left", default="")
    found = []

    async def handle(data: dict[str, str]) -> None:
        found.append(left.get())
        left.set(data["n"])

    await group.add(50)
    await group.start(handle, concurrency=concurrency)
    await eventually(lambda: len(found) == 50)
    assert set(found) == {""}
