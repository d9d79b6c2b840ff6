"""Order of entries: ordering keys, and turns of suspects."""

import asyncio
from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any

import pytest

from streamconsumer.model.processor_settings import Backoff, Breaker, Delivery
from streamconsumer.processor import Reject, Retry, current_message
from streamconsumer.processor.message import Entry, Origin
from streamconsumer.processor.pipeline.ready_queue import MAX_LOADED, MAX_LOADED_BYTES, ReadyQueue
from tests.processor.eventually import eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.recorder import Recorder

BY_CUSTOMER = {"ordering_key": "customer"}


async def _add(group: Group, customers: str) -> list[str]:
    """Add one entry per letter, numbered in order. Returns the ids."""
    return [(await group.add(fields={"customer": letter, "n": str(n)}))[0] for n, letter in enumerate(customers)]


async def test_entries_with_the_same_key_are_handled_in_order_and_one_at_a_time(any_group: Group) -> None:
    order: dict[str, list[int]] = defaultdict(list)
    running, max_running = Counter[str](), 0

    async def handle(data: dict[str, str]) -> None:
        nonlocal max_running
        customer = data["customer"]
        running[customer] += 1
        assert running[customer] == 1
        max_running = max(max_running, sum(running.values()))
        await asyncio.sleep(0.005)
        order[customer].append(int(data["n"]))
        running[customer] -= 1

    await _add(any_group, "aabacadbcbdacbda" * 5)
    await any_group.start(handle, concurrency=4, settings=BY_CUSTOMER)
    await eventually(lambda: sum(map(len, order.values())) == 80)
    await any_group.wait_settled()
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert max_running > 1


async def test_failing_key_keeps_its_order_and_does_not_block_other_keys(any_group: Group) -> None:
    any_group.delivery = Delivery(backoff=Backoff(min_delay=timedelta(seconds=1), max_delay=timedelta(seconds=1)))
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        if data["customer"] == "a" and data["n"] == "0" and current_message().deliveries < 3:
            raise ConnectionError("not yet")
        handled.append(f"{data['customer']}{data['n']}")

    await _add(any_group, "aabbacbcca")
    await any_group.start(handle, concurrency=3, settings=BY_CUSTOMER)
    await eventually(lambda: len(handled) == 10)
    await any_group.wait_settled()
    assert [name for name in handled if name[0] == "a"] == ["a0", "a1", "a4", "a9"]
    assert [name[0] for name in handled[:6]].count("a") == 0, "the other keys did not wait"


async def test_key_continues_after_a_dead_letter(group: Group) -> None:
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        if data["n"] == "0":
            raise Reject("no")
        handled.append(data["n"])

    await _add(group, "aaaa")
    await group.start(handle, concurrency=4, settings=BY_CUSTOMER)
    await eventually(lambda: len(handled) == 3)
    await group.wait_settled()
    assert handled == ["1", "2", "3"]


async def test_entries_without_the_ordering_key_are_not_ordered(group: Group) -> None:
    release = asyncio.Event()
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        if data["n"] == "0":
            await release.wait()
        handled.append(data["n"])

    await group.add(5)
    await group.start(handle, concurrency=2, settings=BY_CUSTOMER)
    await eventually(lambda: len(handled) == 4)
    release.set()
    await group.wait_settled()


async def test_entries_that_wait_in_a_lane_are_released_on_stop(group: Group) -> None:
    started, release = asyncio.Event(), asyncio.Event()
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        started.set()
        await release.wait()
        handled.append(data["n"])

    await _add(group, "aaaaa")
    processor = await group.start(handle, concurrency=5, settings=BY_CUSTOMER)
    await started.wait()
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor.metrics.released == 4)
    release.set()
    await stopping
    assert handled == ["0"]
    assert await group.pending() == 4


def _entry(number: int, origin: Origin = Origin.NEW, *, is_suspect: bool = False) -> Entry:
    entry = Entry(f"{number}-0", ())
    entry.origin, entry.is_suspect = origin, is_suspect
    return entry


@pytest.mark.parametrize("origin", Origin)
def test_suspects_start_after_all_other_entries(origin: Origin) -> None:
    ready_queue = ReadyQueue()
    for number in range(4):
        ready_queue.put(_entry(number, Origin.CLAIMED if number < 2 else origin, is_suspect=number < 2))
    order = []
    while popped := ready_queue.pop():
        order.append(popped.message_id)
        ready_queue.complete(popped)
    assert order == ["2-0", "3-0", "0-0", "1-0"]


def test_suspects_start_one_at_a_time() -> None:
    ready_queue = ReadyQueue()
    for number in range(2):
        ready_queue.put(_entry(number, Origin.CLAIMED, is_suspect=True))
    first = ready_queue.pop()
    assert first is not None
    assert ready_queue.pop() is None
    assert len(ready_queue) == 0, "the second suspect does not wait for a slot"
    ready_queue.release_turn(first)
    assert ready_queue.pop() is not None


def test_claimed_entries_do_not_take_the_turn_of_new_entries() -> None:
    """Entries of a dead consumer arrive one by one, between the starts of due and new entries."""
    ready_queue, order = ReadyQueue(), []
    for number in range(4):
        ready_queue.put(_entry(number, Origin.NEW))
        ready_queue.put(_entry(10 + number, Origin.DUE))
    for number in range(20, 28):
        ready_queue.put(_entry(number, Origin.CLAIMED))
        order += [ready_queue.pop(), ready_queue.pop()]
    origins = [entry.origin for entry in order if entry and entry.origin is not Origin.CLAIMED]
    assert origins == [Origin.DUE, Origin.NEW] * 4


def test_claimed_entries_start_first_and_due_and_new_entries_in_turns() -> None:
    ready_queue = ReadyQueue()
    for number, origin in enumerate([Origin.NEW] * 4 + [Origin.DUE] * 2 + [Origin.CLAIMED] * 2):
        entry = Entry(f"{number}-0", ())
        entry.origin = origin
        ready_queue.put(entry)
    order = [entry.message_id[0] for entry in iter(ready_queue.pop, None)]
    assert order[:2] == ["6", "7"], "claimed"
    assert order[2:] == ["4", "0", "5", "1", "2", "3"]


class FailingHead:
    """Handler that postpones the first message of a key until `release` is set, and records the others in order."""

    def __init__(self) -> None:
        self.release = False
        self.handled: list[str] = []

    async def __call__(self, data: dict[str, str]) -> None:
        if data["n"] == "head" and not self.release:
            raise Retry(after=timedelta(seconds=0.2))
        self.handled.append(f"{data['customer']} {data['n']}")


@pytest.fixture
def patient_group(group: Group) -> Group:
    """Group whose first message of a key can fail as long as a test needs."""
    group.delivery = Delivery(max_deliveries=1000, breaker=Breaker(failures=0))
    return group


async def _add_lane(group: Group, count: int, **fields: str) -> list[str]:
    """Add a first message of the key `a`, and `count` numbered messages behind it. Returns the ids."""
    ids = await group.add(1, {"customer": "a", "n": "head"})
    for first in range(0, count, 5000):
        pipeline = group.client.pipeline(transaction=False)
        for number in range(first, min(first + 5000, count)):
            entry: Any = {"customer": "a", "n": str(number), **fields}
            pipeline.xadd(STREAM, entry)
        ids += await pipeline.execute()
    return ids


async def test_failing_head_of_a_long_lane_does_not_stop_the_other_keys(patient_group: Group) -> None:
    """The entries behind the head leave memory, stay pending with this consumer, and are handled in order."""
    handler, count = FailingHead(), 25_000
    await _add_lane(patient_group, count)
    await patient_group.add(5, {"customer": "b", "n": "other"})
    processor = await patient_group.start(handler, concurrency=4, batch=500, settings=BY_CUSTOMER)
    await eventually(lambda: handler.handled.count("b other") == 5)
    assert len(handler.handled) == 5
    table = processor._pipeline.in_flight
    assert sum(not entry.is_parked for entry in table.entries.values()) <= 1100
    await eventually(lambda: processor.metrics.acknowledged == 5)
    assert await patient_group.pending() == count + 1
    handler.release = True
    await eventually(lambda: len(handler.handled) == count + 6, within=60)
    assert handler.handled[5:] == ["a head", *(f"a {number}" for number in range(count))]
    await patient_group.wait_settled()


async def test_large_entries_of_a_lane_leave_memory(patient_group: Group) -> None:
    handler = FailingHead()
    await _add_lane(patient_group, 60, picture="x" * 1_000_000)
    processor = await patient_group.start(handler, settings=BY_CUSTOMER)
    await eventually(lambda: processor.metrics.delivered == 61)
    table = processor._pipeline.in_flight
    assert sum(entry.size_bytes() for entry in table.entries.values()) <= MAX_LOADED_BYTES
    handler.release = True
    await eventually(lambda: len(handler.handled) == 61)
    assert handler.handled[1:] == [f"a {number}" for number in range(60)]
    await patient_group.wait_settled()


@pytest.mark.parametrize("change", ["trimmed", "claimed", "orphaned"])
async def test_parked_entry_that_has_changed_in_redis(patient_group: Group, change: str) -> None:
    handler = FailingHead()
    ids = await _add_lane(patient_group, MAX_LOADED + 20)
    processor = await patient_group.start(handler, batch=500, settings=BY_CUSTOMER)
    await eventually(lambda: processor.metrics.delivered == len(ids))
    changed = ids[-15:-5]
    if change == "trimmed":
        await patient_group.client.xdel(STREAM, *changed)
    elif change == "claimed":
        await patient_group.claim(changed, "pod-z")
    else:
        await patient_group.client.xgroup_delconsumer(STREAM, GROUP, "pod-a")
    handler.release = True
    expected = ["head", *map(str, range(MAX_LOADED + 20))]
    if change != "orphaned":
        del expected[-15:-5]
    await eventually(lambda: len(handler.handled) == len(expected))
    assert handler.handled == [f"a {name}" for name in expected]
    if change == "claimed":
        await patient_group.client.xack(STREAM, GROUP, *changed)
    await patient_group.wait_settled()
    assert processor.metrics.lost_to_trimming == (10 if change == "trimmed" else 0)


async def test_parked_entries_are_released_on_stop(patient_group: Group) -> None:
    handler, peer = FailingHead(), Recorder()
    ids = await _add_lane(patient_group, MAX_LOADED + 20)
    processor = await patient_group.start(handler, batch=500, settings=BY_CUSTOMER)
    await eventually(lambda: processor.metrics.delivered == len(ids))
    await processor.stop_listening()
    await patient_group.start(peer, "pod-b", batch=500)
    await peer.wait_until_finished(len(ids))
    assert sorted(peer.ids) == sorted(ids)
