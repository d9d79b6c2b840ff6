"""Messages whose handler, or whose end, went another way than anybody meant: none of them stays behind."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.settings import Backoff, Breaker, Delivery
from streamconsumer.processor import breaker, current_message
from streamconsumer.processor.message import Entry
from streamconsumer.processor.ready import Ready
from tests.cluster.fixtures import ON_ONE_SERVER
from tests.processor.eventually import eventually
from tests.processor.group import SOON, Group
from tests.processor.recorder import Recorder
from tests.processor.test_retries import dead_letters

PAUSE = timedelta(milliseconds=20)
QUICKLY = Backoff(min_delay=timedelta(milliseconds=1), max_delay=timedelta(milliseconds=10))


class Halt(BaseException):
    """As gevent's Timeout and pytest's Exit are."""


async def test_when_nothing_but_poison_is_left_it_ends_with_the_dead_letters(
    any_group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "TRIALS_COUNT_AFTER_SECONDS", 0.3)
    policy = Breaker(failures=3, max_pause=PAUSE)
    any_group.delivery = Delivery(backoff=QUICKLY, breaker=policy, max_deliveries=4)
    handler = Recorder(lambda _: ValueError("no such order"))
    await any_group.add(3)
    processor = await any_group.start(handler)
    await eventually(lambda: processor.metrics.dead_lettered == 3)
    await any_group.settled()
    letters = await dead_letters(any_group)
    assert {(each["streamconsumer.reason"], each["streamconsumer.deliveries"]) for each in letters} == {
        ("MaxDeliveries", "4")
    }
    assert len(handler.seen) > 12, "there were trials that did not count"


async def test_messages_behind_many_that_fail_are_read_and_tried(any_group: Group) -> None:
    any_group.delivery = Delivery(backoff=QUICKLY, breaker=Breaker(failures=5, max_pause=PAUSE))
    poison = await any_group.add(5)
    good = await any_group.add(5)
    handler = Recorder(lambda message: ValueError("no such order") if message.message_id in poison else None)
    await any_group.start(handler, batch=5)
    await handler.has_finished(5)
    assert handler.finished == good


async def test_a_suspect_that_fails_leaves_the_next_trial_to_another_message(group: Group) -> None:
    """Suspects go first; but who stands in for the others must not be the same again and again."""
    group.delivery = Delivery(backoff=QUICKLY, breaker=Breaker(failures=1, max_pause=PAUSE))
    await group.create()
    [poison, *_] = await group.add(4)
    [suspect] = await group.read_as("pod-z", 1)
    await group.client.xclaim("orders", "billing", "pod-z", 0, [suspect], retrycount=3, justid=True)
    handler = Recorder(lambda message: ValueError("no such order") if message.message_id == poison else None)
    await group.start(handler, "pod-z")
    await handler.has_finished(3)


def test_suspects_and_others_take_turns() -> None:
    ready = Ready()
    for number in range(4):
        entry = Entry(f"{number}-0", ())
        entry.suspect = number < 2
        ready.put(entry)
    order = []
    while taken := ready.take():
        order.append(taken.message_id)
        ready.done(taken)
    assert order == ["0-0", "2-0", "1-0", "3-0"]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_handler_that_raises_no_exception_but_something_else_has_failed(
    any_group: Group, concurrency: int
) -> None:
    any_group.delivery = SOON
    await any_group.add(3)
    handler = Recorder(lambda message: Halt("stop") if message.deliveries == 1 else None)
    processor = await any_group.start(handler, concurrency=concurrency)
    await handler.has_finished(3)
    await any_group.settled()
    assert processor.metrics.failed == 3


@ON_ONE_SERVER
async def test_a_handler_that_cancels_itself_is_tried_again_soon(any_group: Group) -> None:
    async def cancels_itself(_data: dict[str, Any]) -> None:
        if current_message().deliveries < 3:
            task = asyncio.current_task()
            assert task
            task.cancel()
            await asyncio.sleep(1)

    await any_group.add(2)
    processor = await any_group.start(cancels_itself)
    await eventually(lambda: processor.metrics.acknowledged == 2)
    assert processor.metrics.claimed == 0


async def test_the_timeout_is_the_handlers_and_not_that_of_the_servers_answer_to_its_end(group: Group) -> None:
    timeout = timedelta(milliseconds=200)
    group.delivery = Delivery(timeout=timeout, max_deliveries=1)

    async def fails_while_the_server_rests(_data: dict[str, Any]) -> None:
        group.server.pause()
        raise ValueError("no such order")

    await group.add()
    processor = await group.start(fails_while_the_server_rests)
    await eventually(lambda: processor.metrics.failed)
    await asyncio.sleep(2 * timeout.total_seconds())
    group.server.resume()
    await eventually(lambda: processor.metrics.dead_lettered)
    [letter] = await dead_letters(group)
    assert letter["streamconsumer.error-message"] == "no such order"
    assert (processor.metrics.failed, processor.metrics.claimed) == (1, 0)


async def test_a_message_that_waited_long_for_its_beginning_has_its_whole_time(group: Group) -> None:
    timeout = timedelta(milliseconds=200)
    group.delivery = Delivery(timeout=timeout, backoff=Backoff(min_delay=PAUSE, max_delay=PAUSE))

    async def fails_once(_data: dict[str, Any]) -> None:
        if current_message().deliveries == 1:
            asyncio.get_running_loop().call_later(0.001, group.server.pause)
            asyncio.get_running_loop().call_later(3 * timeout.total_seconds(), group.server.resume)
            raise ValueError("not yet")

    await group.add()
    processor = await group.start(fails_once)
    await eventually(lambda: processor.metrics.acknowledged)
    assert (processor.metrics.failed, processor.metrics.claimed) == (1, 0)


async def test_a_callback_that_is_set_while_a_backlog_is_handled_gets_the_next_message(group: Group) -> None:
    second = Recorder()

    async def first(_data: dict[str, Any]) -> None:
        processor.set_message_callback(second)

    await group.add(10)
    processor = group.processor(first)
    await processor.start_listening()
    await second.has_finished(9)
