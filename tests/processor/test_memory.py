"""What a pod holds is bounded by bytes too, whichever way its entries came."""

import asyncio

from streamconsumer.processor.consumer.redis_consumer import MAX_READ_BYTES
from streamconsumer.processor.pipeline.ready_queue import MAX_BLOCKED_BYTES
from tests.processor.eventually import eventually
from tests.processor.group import Group
from tests.processor.recorder import Recorder

MEGABYTE = 1_000_000
MOST = (MAX_BLOCKED_BYTES + MAX_READ_BYTES) // MEGABYTE
LARGE = {"customer": "one", "picture": "x" * MEGABYTE}


async def test_large_entries_that_stand_behind_one_of_their_key_are_read_up_to_a_bound(group: Group) -> None:
    handler = Recorder(gate=False)
    await group.add(100, LARGE)
    processor = await group.start(handler, concurrency=4, settings={"ordering_key": "customer"})
    await eventually(lambda: processor.metrics.delivered > MAX_BLOCKED_BYTES // MEGABYTE)
    await asyncio.sleep(0.2)
    assert processor.metrics.delivered <= MOST
    handler.gate.set()
    await handler.wait_until_finished(100)


async def test_large_entries_of_the_dead_are_taken_over_few_at_a_time(group: Group) -> None:
    await group.create_group()
    await group.add(100, LARGE)
    await group.read_as("pod-a", 100)
    handler = Recorder(gate=False)
    processor = await group.start(handler, batch=100)
    await handler.wait_until_received(1)
    assert processor.metrics.delivered <= 10
    handler.gate.set()
    await handler.wait_until_finished(100)
    await group.wait_settled()
