"""Large entries in flight stop further reads, so that their sum fits into the memory of the pod."""

import asyncio

import pytest

from streamconsumer.processor.consumer import memory_limit
from streamconsumer.processor.message import Entry
from streamconsumer.processor.pipeline.held_memory import HeldMemory
from tests.processor.group import Group
from tests.processor.recorder import Recorder

MEGABYTE = 1_000_000


def entry(message_id: str, size_bytes: int) -> Entry:
    return Entry(message_id, [b"v", b"x" * size_bytes])


def test_held_memory_is_full_until_large_entries_have_left_the_table() -> None:
    held = HeldMemory(6 * MEGABYTE)
    held.add([entry("1-0", MEGABYTE), entry("2-0", MEGABYTE)])
    assert not held.is_full({"1-0", "2-0"})
    held.add([entry("3-0", MEGABYTE)])
    assert held.is_full({"1-0", "2-0", "3-0"})
    assert not held.is_full({"2-0", "3-0"})


def test_small_entries_are_not_counted() -> None:
    held = HeldMemory(1)
    held.add([entry(f"{number}-0", 100) for number in range(1000)])
    assert not held.is_full({f"{number}-0" for number in range(1000)})


@pytest.mark.parametrize("redelivered", [False, True])
async def test_free_slots_read_no_further_large_entries_above_the_memory_limit(
    any_group: Group, monkeypatch: pytest.MonkeyPatch, redelivered: bool
) -> None:
    monkeypatch.setattr(memory_limit, "available_memory", lambda: 48 * MEGABYTE)
    await any_group.create_group()
    await any_group.add(30, {"picture": "x" * 1_200_000})
    if redelivered:
        await any_group.read_as("pod-a", 30)
    handler = Recorder(gate=False)
    await any_group.start(handler, concurrency=30)
    await handler.wait_until_received(2)
    await asyncio.sleep(0.5)
    assert handler.max_running < 10, "6 MB are a limit for 5 entries, and a read has 2"
    handler.gate.set()
    await handler.wait_until_finished(30)
    await any_group.wait_settled()
