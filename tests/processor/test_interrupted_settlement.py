"""Messages whose handler or settlement ends in an unusual way: none of them stays pending forever."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Backoff, Breaker, Delivery
from streamconsumer.processor import current_message
from streamconsumer.processor.pipeline import circuit_breaker
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import FAST_RETRIES, Group
from tests.processor.recorder import Recorder

PAUSE = timedelta(milliseconds=20)
QUICK_BACKOFF = Backoff(min_delay=timedelta(milliseconds=1), max_delay=timedelta(milliseconds=10))


class Halt(BaseException):
    """BaseException that is no Exception, like gevent's Timeout and pytest's Exit."""


async def test_poison_messages_are_dead_lettered_when_no_other_message_is_left(
    any_group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "COUNT_TRIALS_AFTER_SECONDS", 0.3)
    policy = Breaker(failures=3, max_pause=PAUSE)
    any_group.delivery = Delivery(backoff=QUICK_BACKOFF, breaker=policy, max_deliveries=4)
    handler = Recorder(lambda _: ValueError("no such order"))
    await any_group.add(3)
    processor = await any_group.start(handler)
    await eventually(lambda: processor.metrics.dead_lettered == 3)
    await any_group.wait_settled()
    dead_letters = await any_group.dead_letters()
    assert {(each["streamconsumer.reason"], each["streamconsumer.deliveries"]) for each in dead_letters} == {
        ("MaxDeliveries", "4")
    }
    assert len(handler.received) > 12, "some trials did not count as attempts"


async def test_messages_behind_failing_messages_are_read_and_tried(any_group: Group) -> None:
    any_group.delivery = Delivery(backoff=QUICK_BACKOFF, breaker=Breaker(failures=5, max_pause=PAUSE))
    poison = await any_group.add(5)
    good = await any_group.add(5)
    handler = Recorder(lambda message: ValueError("no such order") if message.message_id in poison else None)
    await any_group.start(handler, batch=5)
    await handler.wait_until_finished(5)
    assert handler.finished == good


async def test_next_trial_is_another_message_after_a_suspect_failed(group: Group) -> None:
    """Suspects start first, but the same message must not be the trial repeatedly."""
    group.delivery = Delivery(backoff=QUICK_BACKOFF, breaker=Breaker(failures=1, max_pause=PAUSE))
    await group.create_group()
    [poison, *_] = await group.add(4)
    [suspect] = await group.read_as("pod-z", 1)
    await group.client.xclaim("orders", "billing", "pod-z", 0, [suspect], retrycount=3, justid=True)
    handler = Recorder(lambda message: ValueError("no such order") if message.message_id == poison else None)
    await group.start(handler, "pod-z")
    await handler.wait_until_finished(3)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_base_exception_of_a_handler_is_a_failure(any_group: Group, concurrency: int) -> None:
    any_group.delivery = FAST_RETRIES
    await any_group.add(3)
    handler = Recorder(lambda message: Halt("stop") if message.deliveries == 1 else None)
    processor = await any_group.start(handler, concurrency=concurrency)
    await handler.wait_until_finished(3)
    await any_group.wait_settled()
    assert processor.metrics.failed == 3


@ON_ONE_SERVER
async def test_handler_that_cancels_itself_is_retried_soon(any_group: Group) -> None:
    async def cancel_itself(_data: dict[str, Any]) -> None:
        if current_message().deliveries < 3:
            task = asyncio.current_task()
            assert task
            task.cancel()
            await asyncio.sleep(1)

    await any_group.add(2)
    processor = await any_group.start(cancel_itself)
    await eventually(lambda: processor.metrics.acknowledged == 2)
    assert processor.metrics.claimed == 0


async def test_timeout_does_not_include_the_settlement(group: Group) -> None:
    timeout = timedelta(milliseconds=200)
    group.delivery = Delivery(timeout=timeout, max_deliveries=1)

    async def fail_and_pause_the_server(_data: dict[str, Any]) -> None:
        group.server.pause()
        raise ValueError("no such order")

    await group.add()
    processor = await group.start(fail_and_pause_the_server)
    await eventually(lambda: processor.metrics.failed)
    await asyncio.sleep(2 * timeout.total_seconds())
    group.server.resume()
    await eventually(lambda: processor.metrics.dead_lettered)
    [dead_letter] = await group.dead_letters()
    assert dead_letter["streamconsumer.error-message"] == "no such order"
    assert (processor.metrics.failed, processor.metrics.claimed) == (1, 0)


async def test_timeout_starts_with_the_handler_when_the_start_was_delayed(group: Group) -> None:
    timeout = timedelta(milliseconds=200)
    group.delivery = Delivery(timeout=timeout, backoff=Backoff(min_delay=PAUSE, max_delay=PAUSE))

    async def fail_once(_data: dict[str, Any]) -> None:
        if current_message().deliveries == 1:
            asyncio.get_running_loop().call_later(0.001, group.server.pause)
            asyncio.get_running_loop().call_later(3 * timeout.total_seconds(), group.server.resume)
            raise ValueError("not yet")

    await group.add()
    processor = await group.start(fail_once)
    await eventually(lambda: processor.metrics.acknowledged)
    assert (processor.metrics.failed, processor.metrics.claimed) == (1, 0)


async def test_new_callback_receives_the_next_message_of_a_backlog(group: Group) -> None:
    second = Recorder()

    async def first(_data: dict[str, Any]) -> None:
        processor.set_message_callback(second)

    await group.add(10)
    processor = group.processor(first)
    await processor.start_listening()
    await second.wait_until_finished(9)
