"""Memory bounds: the entries in a pod are limited by bytes, whether they were read or claimed."""

from tests.processor.group import Group
from tests.processor.recorder import Recorder

MEGABYTE = 1_000_000
LARGE_FIELDS = {"customer": "one", "picture": "x" * MEGABYTE}


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
