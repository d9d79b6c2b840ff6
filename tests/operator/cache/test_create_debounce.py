"""New StreamConsumers start together at the end of a burst."""

import asyncio
from datetime import timedelta

import pytest

from streamconsumer.operator.cache import create_debounce
from streamconsumer.operator.cache.create_debounce import CreateDebounce
from streamconsumer.operator.cache.workqueue import Key

PATIENCE_SECONDS = 20


class Begun:
    """Records the keys that an Arrivals passes on."""

    def __init__(self) -> None:
        self.keys: asyncio.Queue[Key] = asyncio.Queue()
        self.arrivals = CreateDebounce(self.keys.put_nowait)

    def come(self, number: int) -> None:
        self.arrivals.add(("shop", str(number)))

    async def numbers(self, count: int) -> list[int]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [int((await self.keys.get())[1]) for _ in range(count)]


async def test_a_single_new_streamconsumer_is_enqueued() -> None:
    begun = Begun()
    begun.come(1)
    assert await begun.numbers(1) == [1]


async def test_a_burst_is_enqueued_in_order_after_the_last_creation() -> None:
    begun = Begun()
    for number in range(50):
        begun.come(number)
        await asyncio.sleep(0)
        assert begun.keys.empty()
    assert await begun.numbers(50) == list(range(50))


async def test_a_continuing_burst_is_enqueued_after_the_maximum_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create_debounce, "QUIET_PERIOD", timedelta(milliseconds=50))
    monkeypatch.setattr(create_debounce, "MAX_DELAY", timedelta(milliseconds=100))
    begun, came = Begun(), 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while begun.keys.empty():
            begun.come(came)
            came += 1
            await asyncio.sleep(0)
    assert await begun.numbers(begun.keys.qsize()) == list(range(came))


async def test_each_burst_is_delayed() -> None:
    begun = Begun()
    begun.come(1)
    assert await begun.numbers(1) == [1]
    begun.come(2)
    assert begun.keys.empty()
    assert await begun.numbers(1) == [2]
