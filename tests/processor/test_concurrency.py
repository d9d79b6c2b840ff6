"""So many handlers at once as was asked for, and never one message in two of them."""

import asyncio
import time
from contextvars import ContextVar

import pytest

from streamconsumer.processor import current_message
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder

left = ContextVar("left", default="nothing")


@pytest.mark.parametrize(("concurrency", "batch"), [(1, 10), (8, 10), (30, 10), (3, 1)])
async def test_that_many_handlers_run_at_once_and_never_more(group: Group, concurrency: int, batch: int) -> None:
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


async def test_a_processor_takes_no_more_than_it_has_room_for(group: Group) -> None:
    """What one pod buffers, its peers cannot have."""
    handler = Recorder(gate=False)
    await group.start(handler, concurrency=4, batch=10)
    await group.add(100)
    await handler.wait_until_received(4)
    await asyncio.sleep(0.1)
    assert await group.pending() <= 4 + 10


async def test_a_slow_message_does_not_keep_the_others_waiting(group: Group) -> None:
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


async def test_a_message_that_is_delivered_again_while_it_runs_is_not_run_twice(any_group: Group) -> None:
    """It comes again as idle (claim) and, with the connection lost, as pending (replay)."""
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


async def test_a_handler_that_blocks_the_loop_for_long_is_not_run_again_by_its_own_process(
    group: Group,
) -> None:
    """Nothing could be renewed meanwhile; what is done but not acknowledged yet must not be claimed back."""
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        time.sleep(0.7)  # noqa: ASYNC251 - the mistake that this is about
        handled.append(current_message().message_id)

    await group.start(handle, min_idle=0.4, concurrency=2)
    ids = await group.add(4)
    await eventually(lambda: len(handled) >= 4)
    await group.wait_settled()
    await asyncio.sleep(0.5)
    assert handled == ids


async def test_a_task_that_outlives_its_message_still_knows_whose_it_was(group: Group) -> None:
    """The next messages run in the same slot, one after another without giving way."""
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


async def test_what_a_handler_leaves_in_context_variables_does_not_reach_the_next_message(group: Group) -> None:
    seen: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        seen.append(left.get())
        if int(data["n"]) % 3 == 0:
            left.set(data["n"])

    await group.add(20)
    await group.start(handle, batch=20)
    await eventually(lambda: len(seen) == 20)
    assert seen == ["nothing"] * 20
