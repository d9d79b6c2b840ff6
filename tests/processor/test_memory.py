"""Memory bounds: the entries in a pod are limited by bytes, whether they were read or claimed."""

import asyncio

from streamconsumer.processor.consumer.memory_limit import MAX_READ_BYTES
from streamconsumer.processor.pipeline.ready_queue import MAX_BLOCKED_BYTES
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder

MEGABYTE = 1_000_000
MAX_DELIVERED = (MAX_BLOCKED_BYTES + MAX_READ_BYTES) // MEGABYTE
LARGE_FIELDS = {"customer": "one", "picture": "x" * MEGABYTE}


async def test_large_entries_that_wait_in_a_lane_are_read_up_to_the_byte_limit(group: Group) -> None:
    handler = Recorder(gate=False)
    await group.add(100, LARGE_FIELDS)
    processor = await group.start(handler, concurrency=4, settings={"ordering_key": "customer"})
    await eventually(lambda: processor.metrics.delivered > MAX_BLOCKED_BYTES // MEGABYTE)
    await asyncio.sleep(0.2)
    assert processor.metrics.delivered <= MAX_DELIVERED
    handler.gate.set()
    await handler.wait_until_finished(100)


async def test_large_entries_of_a_dead_consumer_are_claimed_in_small_pages(group: Group) -> None:
    await group.create_group()
    await group.add(100, LARGE_FIELDS)
    await group.read_as("pod-a", 100)
    handler = Recorder(gate=False)
    processor = await group.start(handler, batch=100)
    await handler.wait_until_received(1)
    assert processor.metrics.delivered <= 10
    handler.gate.set()
    await handler.wait_until_finished(100)
    await group.wait_settled()
