"""Concurrency: the number of running handlers, and that no message is in two handlers."""

import asyncio
import math
import sys
import threading
import time
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Backoff, Delivery
from streamconsumer.processor import Effects, current_message
from streamconsumer.processor.entry_state import LOST
from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER
from streamconsumer.redis_client.outcome import Outcome
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder

left_over = ContextVar("left_over", default="nothing")


@pytest.mark.parametrize(("concurrency", "batch"), [(1, 10), (8, 10), (30, 10), (3, 1)])
async def test_concurrency_limits_running_handlers(group: Group, concurrency: int, batch: int) -> None:
    handler = Recorder(gate=False)
    await group.start(handler, concurrency=concurrency, batch=batch)
    await group.add(100)
    await handler.wait_until_received(concurrency)
    await asyncio.sleep(0.05)
    assert handler.running == concurrency
    handler.gate.set()
    await handler.wait_until_finished(100)
    await group.wait_settled()
    assert handler.max_running == concurrency


async def test_processor_reads_no_more_than_its_capacity(group: Group) -> None:
    """Entries that one pod buffers are not available to its peers."""
    handler = Recorder(gate=False)
    await group.start(handler, concurrency=4, batch=10)
    await group.add(100)
    await handler.wait_until_received(4)
    await asyncio.sleep(0.1)
    assert await group.pending() <= 4 + 10


async def test_slow_message_does_not_block_the_others(group: Group) -> None:
    slow, *_ = await group.add(50)
    release = asyncio.Event()
    finished: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        if current_message().message_id == slow:
            await release.wait()
        finished.append(current_message().message_id)

    await group.start(handle, concurrency=2)
    await eventually(lambda: len(finished) == 49)
    release.set()
    await group.wait_settled()
    assert finished[-1] == slow


async def test_message_redelivered_while_it_runs_is_not_run_twice(any_group: Group) -> None:
    """The entry returns as idle (claim) and, after a lost connection, as pending (replay)."""
    handler = Recorder(gate=False)
    ids = await any_group.add(6)
    processor = await any_group.start(handler, min_idle=1, concurrency=8)
    await handler.wait_until_received(6)
    for _ in range(10):
        await any_group.claim(ids, "pod-a", idle_ms=3_600_000)
        await any_group.client.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0.1)
    await eventually(lambda: processor.metrics.redis_errors)
    assert handler.running == 6
    handler.gate.set()
    await handler.wait_until_finished(6)
    await any_group.wait_settled()
    assert handler.ids == ids


async def test_message_of_a_handler_that_blocks_the_loop_is_not_run_again(
    group: Group,
) -> None:
    """No lease could be renewed meanwhile. A handled but unacknowledged entry must not be claimed back."""
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        time.sleep(0.7)  # noqa: ASYNC251 - blocks the event loop on purpose
        handled.append(current_message().message_id)

    await group.start(handle, min_idle=0.4, concurrency=2)
    ids = await group.add(4)
    await eventually(lambda: len(handled) >= 4)
    await group.wait_settled()
    await asyncio.sleep(0.5)
    assert handled == ids


async def test_task_that_outlives_its_message_keeps_the_current_message(group: Group) -> None:
    """The next messages run in the same slot, without yielding to the task in between."""
    release = asyncio.Event()
    tasks: list[asyncio.Task[str]] = []

    async def later() -> str:
        await release.wait()
        return current_message().message_id

    async def handle(_data: dict[str, str]) -> None:
        tasks.append(asyncio.create_task(later()))

    ids = await group.add(20)
    await group.start(handle, batch=20)
    await eventually(lambda: len(tasks) == len(ids))
    release.set()
    assert await asyncio.gather(*tasks) == ids


async def test_context_variables_do_not_reach_the_next_message_of_a_read(group: Group) -> None:
    values: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        values.append(left_over.get())
        if int(data["n"]) % 3 == 0:
            left_over.set(data["n"])

    await group.add(20)
    await group.start(handle, batch=20)
    await eventually(lambda: len(values) == 20)
    assert values == ["nothing"] * 20


async def test_cancellation_that_a_handler_leaves_behind_costs_no_slot(group: Group) -> None:
    """The cancellation reaches the slot while it is idle."""
    slots: list[asyncio.Task[Any]] = []
    handler = Recorder(gate=False)

    async def handle(data: dict[str, str]) -> None:
        task = asyncio.current_task()
        assert task
        if len(slots) < 4:
            slots.append(task)
            await eventually(lambda: len(slots) == 4)
        else:
            await handler(data)

    await group.add(4)
    processor = await group.start(handle, concurrency=4)
    await eventually(lambda: processor.metrics.acknowledged == 4)
    for slot in slots[:3]:
        slot.cancel()
    await group.add(4)
    await handler.wait_until_received(4)
    handler.gate.set()
    await group.wait_settled()


async def test_nothing_starts_after_the_task_of_the_processor_is_cancelled() -> None:
    """asyncio.run cancels all tasks after a KeyboardInterrupt. A slot may then see its cancellation first."""
    started: list[str] = []

    async def run(entry: Entry) -> None:
        started.append(entry.message_id)
        await asyncio.sleep(3600)

    in_flight = InFlightTable(run, concurrency=2, metrics=Metrics())
    in_flight.owner = asyncio.create_task(asyncio.sleep(3600))
    in_flight.admit([Entry(f"{number}-0", ()) for number in range(5)])
    await eventually(lambda: len(started) == 2)
    for task in [*in_flight.tasks.values(), in_flight.owner]:
        task.cancel()
    await eventually(lambda: not in_flight.tasks)
    in_flight.dispatch()
    await asyncio.sleep(0)
    assert started == ["0-0", "1-0"]


LIBRARY_PROGRAM = """
import asyncio, sys
from streamconsumer.processor import RedisStreamProcessor, current_message
class Manager:
    read = 0
    async def create_group(self, stream, group): pass
    async def read_events(self, stream, group, consumer, count):
        Manager.read += count
        return [(f"{Manager.read}-{n}", {"n": "0"}) for n in range(count)]
    async def ack_event(self, stream, group, message_id): pass
calls = []
async def handle(data):
    calls.append(len(calls))
    print("start", flush=True)
    if len(calls) == 8:
        raise KeyboardInterrupt
    await asyncio.sleep(0.01)
async def main():
    processor = RedisStreamProcessor(Manager(), "orders", "billing", "pod-a", 4, 0.01, concurrency=4)
    processor.set_message_callback(handle)
    await processor.start_listening()
    await asyncio.sleep(3600)
asyncio.run(main())
"""
"""Program that uses the library, and is interrupted while it starts its eighth message."""


async def test_nothing_starts_after_a_keyboard_interrupt_in_a_handler(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(LIBRARY_PROGRAM)
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in errors
    assert output.count(b"start") == 8


@pytest.mark.parametrize("is_batch", [False, True])
async def test_entry_does_not_start_after_the_processor_was_stopped_during_its_preparation(
    group: Group, is_batch: bool
) -> None:
    prepared, gate, calls = asyncio.Event(), asyncio.Event(), 0

    async def handle(_data: Any) -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError

    processor = await group.start(handle, settings={"batch": is_batch})
    consumer = processor._pipeline.consumer
    start_attempt = consumer.start_attempt

    async def wait(message_id: str, deliveries: int) -> Outcome:
        outcome = await start_attempt(message_id, deliveries)
        prepared.set()
        await gate.wait()
        return outcome

    consumer.start_attempt = wait  # type: ignore[method-assign]
    await group.add()
    await prepared.wait()
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor._pipeline.in_flight.is_closed)
    gate.set()
    await stopping
    assert calls == 1
    [entry] = await group.entries()
    assert (entry.consumer, entry.deliveries) == (POSTPONED_CONSUMER, 1)


async def test_due_entry_whose_own_thread_still_runs_is_retried_when_the_thread_ends(group: Group) -> None:
    timeout = timedelta(milliseconds=100)
    group.delivery = Delivery(timeout=timeout, backoff=Backoff(min_delay=timedelta(hours=1), max_delay=timedelta(1)))
    end, started = threading.Event(), []

    def handle(_data: dict[str, str]) -> None:
        started.append(current_message().deliveries)
        if len(started) == 1:
            end.wait()

    [message_id] = await group.add()
    processor = await group.start(handle)
    await eventually(lambda: processor.metrics.retried and not processor._pipeline.in_flight.ids())
    await group.client.zadd("{orders}:billing:postponed", {message_id: 1})
    await eventually(lambda: processor.metrics.claimed)
    await asyncio.sleep(0.5)
    assert started == [1], "one message is never in two handlers of a process"
    end.set()
    await eventually(lambda: processor.metrics.acknowledged)
    assert started == [1, 2]


@pytest.mark.parametrize("is_batch", [False, True])
async def test_entries_are_verified_after_their_leases_may_have_expired(group: Group, is_batch: bool) -> None:
    """A frozen pod must not start what a peer owns or has settled meanwhile."""
    started, gate = list[str](), asyncio.Event()

    async def handle(data: Any) -> None:
        started.extend(each["n"] for each in (data if is_batch else [data]))
        await gate.wait()

    await group.add(1)
    processor = await group.start(handle, settings={"batch": is_batch})
    await eventually(lambda: started)
    _, second, third = await group.add(3)
    processor._pipeline.in_flight.prefetch_limit = 10
    processor._pipeline.in_flight.update_capacity()
    await eventually(lambda: len(processor._pipeline.in_flight.ids()) == 4)
    await group.claim([second, third], "pod-z")
    processor._pipeline.consumer.leases_valid_until = -math.inf
    gate.set()
    await eventually(lambda: processor.metrics.acknowledged == 2)
    assert started == ["0", "0"]
    assert {each.consumer for each in await group.entries()} == {"pod-z"}


async def test_handler_of_a_lost_entry_has_no_effect() -> None:
    decided: list[Entry] = []

    async def run(entry: Entry) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            decided.append(entry)

    in_flight = InFlightTable(run, concurrency=1, metrics=Metrics())
    in_flight.admit([Entry("1-0", ())])
    await eventually(lambda: in_flight.tasks)
    in_flight.drop_all()
    await eventually(lambda: not in_flight.ids())
    assert [entry.state for entry in decided] == [LOST]


async def test_cancelled_commit_of_effects_is_repeated_without_the_handler(group: Group) -> None:
    """The server may have applied the effects, so that the message is settled."""
    calls = 0

    async def handle(_data: dict[str, str]) -> Effects:
        nonlocal calls
        calls += 1
        task = asyncio.current_task()
        assert task
        group.server.pause()
        asyncio.get_running_loop().call_later(0.2, task.cancel)
        asyncio.get_running_loop().call_later(0.3, group.server.resume)
        return Effects().increment("{orders}:handled")

    await group.add()
    await group.start(handle)
    await eventually(lambda: calls)
    await group.wait_settled()
    assert await group.client.get("{orders}:handled") == "1"
    assert calls == 1
