"""Settlement of failed messages: retries, their delays and where they wait, dead letters, timeouts and the breaker."""

import asyncio
import time
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Breaker, Delivery
from streamconsumer.processor import Defer, Message, Reject, Retry, current_message
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import DEAD_LETTER_STREAM, GROUP, QUICK_BACKOFF, STREAM, Group
from tests.processor.recorder import Recorder, fail_every_delivery, fail_first_delivery


async def test_failed_message_is_retried_and_counted_in_redis(any_group: Group) -> None:
    handler = Recorder(lambda message: ValueError("not yet") if message.deliveries < 4 else None)
    [message_id] = await any_group.add()
    processor = await any_group.start(handler)
    await handler.wait_until_finished(1)
    await eventually(lambda: processor.metrics.acknowledged)
    assert [message.deliveries for message in handler.received] == [1, 2, 3, 4]
    assert handler.finished == [message_id]
    assert (processor.metrics.failed, processor.metrics.retried, processor.metrics.acknowledged) == (3, 3, 1)


async def test_message_that_always_fails_becomes_a_dead_letter_with_its_failure(any_group: Group) -> None:
    any_group.delivery = Delivery(backoff=QUICK_BACKOFF, max_deliveries=3)
    handler = Recorder(fail_every_delivery(ValueError("no such customer")))
    [message_id] = await any_group.add()
    processor = await any_group.start(handler)
    await eventually(lambda: processor.metrics.dead_lettered)
    await any_group.wait_settled()
    assert len(handler.received) == 3
    [dead_letter] = await any_group.dead_letters()
    assert dead_letter["n"] == "0"
    assert dead_letter["streamconsumer.reason"] == "MaxDeliveries"
    assert dead_letter["streamconsumer.origin-id"] == message_id
    assert dead_letter["streamconsumer.deliveries"] == "3"
    assert "ValueError" in dead_letter["streamconsumer.error-type"]
    assert dead_letter["streamconsumer.error-message"] == "no such customer"


@ON_ONE_SERVER
async def test_long_retry_delay_is_stored_in_redis_and_survives_the_pod(any_group: Group) -> None:
    """Meanwhile the entry is pending with the consumer of postponed entries, which is not a process."""
    failing, peer = Recorder(fail_first_delivery(Retry("later", after=timedelta(seconds=3)))), Recorder()
    [message_id] = await any_group.add()
    processor = await any_group.start(failing)
    await eventually(lambda: processor.metrics.retried)
    await eventually(lambda: not processor._pipeline.in_flight.ids())
    assert [(entry.message_id, entry.consumer) for entry in await any_group.entries()] == [
        (message_id, POSTPONED_CONSUMER)
    ]
    failed = time.monotonic()
    processor.force_stop()
    await processor.stop_listening()
    await any_group.start(peer, "pod-b")
    await peer.wait_until_finished(1)
    assert time.monotonic() - failed > 2.5
    assert [message.deliveries for message in peer.received] == [2]
    await any_group.wait_settled()


@ON_ONE_SERVER
async def test_postponed_message_returns_when_its_due_time_was_deleted(any_group: Group) -> None:
    handler = Recorder(fail_first_delivery(Retry(after=timedelta(hours=1))))
    await any_group.add()
    processor = await any_group.start(handler, min_idle=1)
    await eventually(lambda: processor.metrics.retried)
    await eventually(lambda: not processor._pipeline.in_flight.ids())
    await any_group.client.delete(group_key(STREAM, GROUP, "postponed"))
    await handler.wait_until_finished(1)
    await any_group.wait_settled()


async def test_rejected_message_is_dead_lettered_without_a_retry(any_group: Group) -> None:
    handler = Recorder(fail_every_delivery(Reject("unknown currency")))
    await any_group.add()
    await any_group.start(handler)
    await handler.wait_until_received(1)
    await any_group.wait_settled()
    assert len(handler.received) == 1
    [dead_letter] = await any_group.dead_letters()
    assert dead_letter["streamconsumer.reason"] == "Rejected"


async def test_terminal_error_is_not_retried(group: Group) -> None:
    group.delivery = Delivery(terminal_errors=["LookupError"])
    handler = Recorder(lambda message: KeyError("x") if message.data["n"] == "0" else None)
    await group.add(2)
    await group.start(handler)
    await handler.wait_until_received(2)
    await group.wait_settled()
    assert len(handler.received) == 2
    [dead_letter] = await group.dead_letters()
    assert dead_letter["streamconsumer.reason"] == "TerminalError"


async def test_defer_does_not_count_as_an_attempt(any_group: Group) -> None:
    any_group.delivery = Delivery(max_deliveries=2)
    calls = 0

    def defer_five_times(_message: Message) -> BaseException | None:
        nonlocal calls
        calls += 1
        return Defer(timedelta(milliseconds=5)) if calls <= 5 else None

    handler = Recorder(defer_five_times)
    await any_group.add()
    await any_group.start(handler)
    await handler.wait_until_finished(1)
    await any_group.wait_settled()
    assert {message.deliveries for message in handler.received} == {1}
    assert await any_group.dead_letters() == []


async def test_message_stays_pending_until_its_dead_letter_can_be_written(group: Group) -> None:
    handler = Recorder(fail_every_delivery(Reject("no")))
    await group.client.set(DEAD_LETTER_STREAM, "another program's value")
    [message_id] = await group.add()
    processor = await group.start(handler)
    await handler.wait_until_received(1)
    await asyncio.sleep(0.2)
    assert [entry.message_id for entry in await group.entries()] == [message_id]
    assert processor.metrics.dead_lettered == 0
    await group.client.delete(DEAD_LETTER_STREAM)
    await group.wait_settled()
    assert len(await group.dead_letters()) == 1
    assert len(handler.received) == 1, "the handler was not called again"


async def test_oversized_entry_is_dead_lettered_and_the_others_are_handled(any_group: Group) -> None:
    any_group.delivery = Delivery(max_entry_bytes=2000)
    [small] = await any_group.add()
    await any_group.add(fields={"blob": "x" * 5000})
    [after] = await any_group.add()
    handler = Recorder()
    await any_group.start(handler)
    await handler.wait_until_finished(2)
    await any_group.wait_settled()
    assert handler.ids == [small, after]
    [dead_letter] = await any_group.dead_letters()
    assert dead_letter["streamconsumer.reason"] == "Oversized"


async def test_timed_out_handler_is_cancelled_and_its_message_retried(any_group: Group) -> None:
    any_group.delivery = Delivery(timeout=timedelta(milliseconds=200), backoff=QUICK_BACKOFF)
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


async def test_handler_that_returns_after_its_timeout_has_failed(group: Group) -> None:
    group.delivery = Delivery(timeout=timedelta(milliseconds=50), max_deliveries=1)

    async def stubborn(_data: dict[str, Any]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    await group.add()
    processor = await group.start(stubborn)
    await eventually(lambda: processor.metrics.dead_lettered)
    [dead_letter] = await group.dead_letters()
    assert "TimeoutError" in dead_letter["streamconsumer.error-type"]


async def test_backlog_keeps_its_attempts_while_every_message_fails(group: Group) -> None:
    """A payment service that is down for a second must not dead-letter a thousand orders."""
    pause = timedelta(milliseconds=100)
    group.delivery = Delivery(
        max_deliveries=2,
        backoff=QUICK_BACKOFF,
        breaker=Breaker(failures=5, max_pause=pause),
    )
    is_down = True
    handler = Recorder(lambda _: ConnectionError("the bank is down") if is_down else None)
    await group.add(300)
    processor = await group.start(handler, concurrency=2)
    await eventually(lambda: processor.metrics.breaker_opened)
    await asyncio.sleep(1)
    assert len(handler.received) < 40, "one trial in each pause"
    is_down = False
    await handler.wait_until_finished(295)
    await group.wait_settled()
    assert len(await group.dead_letters()) <= 5


async def test_message_that_waits_for_a_retry_can_be_the_trial(group: Group) -> None:
    pause = timedelta(milliseconds=50)
    group.delivery = Delivery(backoff=QUICK_BACKOFF, breaker=Breaker(failures=1, max_pause=pause))
    handler = Recorder(lambda _: OSError("down") if len(handler.received) < 6 else None)
    await group.add(1)
    await group.start(handler)
    await handler.wait_until_finished(1)
    await group.wait_settled()
    assert {message.deliveries for message in handler.received} <= {1, 2}


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_context_variables_do_not_reach_the_next_message(group: Group, concurrency: int) -> None:
    left_over: ContextVar[str] = ContextVar("left_over", default="")
    values = []

    async def handle(data: dict[str, str]) -> None:
        values.append(left_over.get())
        left_over.set(data["n"])

    await group.add(50)
    await group.start(handle, concurrency=concurrency)
    await eventually(lambda: len(values) == 50)
    assert set(values) == {""}
