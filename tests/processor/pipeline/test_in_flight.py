"""Concurrency: the number of running handlers, and that no message is in two handlers."""

import asyncio
import time
from contextvars import ContextVar

import pytest

from streamconsumer.processor import current_message
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
