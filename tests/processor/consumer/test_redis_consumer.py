"""Reads block in Redis:

an idle consumer costs nothing, receives a new entry immediately and can be stopped immediately.
"""

import asyncio
import time

import pytest
from redis.exceptions import ResponseError

from streamconsumer.processor import current_message
from streamconsumer.processor.consumer.redis_consumer import GROUP_LOST
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder


async def test_idle_processor_stops_before_the_end_of_the_block(any_group: Group) -> None:
    processor = await any_group.start(Recorder(), poll=60)
    await any_group.wait_until_reading()
    started_at = time.monotonic()
    await processor.stop_listening()
    assert time.monotonic() - started_at < TIMEOUT_SECONDS


async def test_entries_added_during_a_stop_are_not_stranded(any_group: Group) -> None:
    """Each entry is either handled, or is left in the group for the next consumer."""
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        handled.append(current_message().message_id)

    async def produce() -> list[str]:
        ids = []
        while not stopped.is_set():
            ids += await any_group.add()
        return ids

    added: list[str] = []
    for _ in range(10):
        stopped = asyncio.Event()
        processor = await any_group.start(handle, poll=60, min_idle=1)
        await any_group.wait_until_reading()
        any_group.processors.clear()
        producing = asyncio.create_task(produce())
        await asyncio.sleep(0.01)
        await processor.stop_listening()
        stopped.set()
        added += await producing
    await any_group.start(handle, "pod-b", min_idle=1)
    await eventually(lambda: set(handled) >= set(added))
    await any_group.wait_settled()
    assert len(handled) == len(added)


async def test_new_entry_ends_the_block_immediately(group: Group) -> None:
    handler = Recorder()
    await group.start(handler, poll=60)
    await group.wait_until_reading()
    started_at = time.monotonic()
    await group.add()
    await handler.wait_until_finished(1)
    assert time.monotonic() - started_at < TIMEOUT_SECONDS


async def test_last_acknowledgement_does_not_wait_for_the_next_message(group: Group) -> None:
    handler = Recorder()
    await group.start(handler, poll=60)
    await group.add()
    await handler.wait_until_finished(1)
    await group.wait_settled()


async def test_idle_processor_sends_at_most_0_3_commands_per_second(group: Group) -> None:
    """With the default settings, 50 times faster: the commands of 3 s are those of 150 s."""
    faster, default_poll, default_min_idle = 50, 5.0, 30.0
    await group.start(Recorder(), poll=default_poll / faster, min_idle=default_min_idle / faster)
    await group.wait_until_reading()
    await group.reset_command_counts()
    started_at = time.monotonic()
    await asyncio.sleep(3)
    commands = await group.command_counts()
    at_default_settings = sum(commands.values()) / ((time.monotonic() - started_at) * faster)
    assert 0.1 < at_default_settings <= 0.3, commands


async def test_acknowledgements_are_sent_with_reads(any_group: Group) -> None:
    """Ten messages cost one read and one acknowledgement, in one round trip."""
    await any_group.add(1000)
    handler = Recorder()
    await any_group.reset_command_counts()
    await any_group.start(handler, batch=10)
    await handler.wait_until_finished(1000)
    await any_group.wait_settled()
    commands = await any_group.command_counts()
    assert (commands["xack"] + commands["xreadgroup"]) / 1000 <= 0.25, commands


@pytest.mark.parametrize("batch", [1, 7, 1000])
async def test_all_messages_are_handled_in_order_with_every_batch_size(group: Group, batch: int) -> None:
    ids = await group.add(2500)
    handler = Recorder()
    await group.start(handler, batch=batch)
    await handler.wait_until_finished(2500)
    await group.wait_settled()
    assert handler.ids == ids


async def test_error_for_a_stream_that_was_deleted_during_the_restoration_is_a_lost_group(any_group: Group) -> None:
    """A script of the restoration creates a consumer, which fails if the stream has been deleted meanwhile."""
    with pytest.raises(ResponseError) as raised:
        await any_group.client.xgroup_createconsumer("missing-stream", "billing", "pod-a")
    assert str(raised.value).removeprefix("ERR ").startswith(GROUP_LOST)
