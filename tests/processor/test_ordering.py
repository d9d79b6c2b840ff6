"""With an ordering key: one after another within a key, side by side otherwise; a failing key blocks only itself."""

import asyncio
from collections import Counter, defaultdict
from datetime import timedelta

from streamconsumer.model.processor_settings import Backoff, Delivery
from streamconsumer.processor import Reject, current_message
from tests.processor.eventually import eventually
from tests.processor.group import Group

BY_CUSTOMER = {"ordering_key": "customer"}


async def _add(group: Group, customers: str) -> list[str]:
    """One entry for each letter, whose number counts up."""
    return [(await group.add(fields={"customer": letter, "n": str(n)}))[0] for n, letter in enumerate(customers)]


async def test_entries_of_one_key_are_handled_in_order_and_never_at_the_same_time(any_group: Group) -> None:
    order: dict[str, list[int]] = defaultdict(list)
    running, most = Counter[str](), 0

    async def handle(data: dict[str, str]) -> None:
        nonlocal most
        customer = data["customer"]
        running[customer] += 1
        assert running[customer] == 1
        most = max(most, sum(running.values()))
        await asyncio.sleep(0.005)
        order[customer].append(int(data["n"]))
        running[customer] -= 1

    await _add(any_group, "aabacadbcbdacbda" * 5)
    await any_group.start(handle, concurrency=4, settings=BY_CUSTOMER)
    await eventually(lambda: sum(map(len, order.values())) == 80)
    await any_group.wait_settled()
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert most > 1


async def test_a_failing_key_blocks_only_itself_and_keeps_its_order(any_group: Group) -> None:
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
    assert [each for each in handled if each[0] == "a"] == ["a0", "a1", "a4", "a9"]
    assert [each[0] for each in handled[:6]].count("a") == 0, "the others did not wait"


async def test_after_a_dead_letter_the_key_goes_on(group: Group) -> None:
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


async def test_entries_without_the_key_have_no_order(group: Group) -> None:
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


async def test_what_stands_behind_a_running_message_is_handed_back_when_stopping(group: Group) -> None:
    begun, release = asyncio.Event(), asyncio.Event()
    handled: list[str] = []

    async def handle(data: dict[str, str]) -> None:
        begun.set()
        await release.wait()
        handled.append(data["n"])

    await _add(group, "aaaaa")
    processor = await group.start(handle, concurrency=5, settings=BY_CUSTOMER)
    await begun.wait()
    stopping = asyncio.create_task(processor.stop_listening())
    await eventually(lambda: processor.metrics.released == 4)
    release.set()
    await stopping
    assert handled == ["0"]
    assert await group.pending() == 4
