"""The debounce of the first reconciles after a burst of creations."""

import asyncio
from datetime import timedelta

import pytest

from streamconsumer.operator.cache import create_debounce
from streamconsumer.operator.cache.create_debounce import CreateDebounce
from streamconsumer.operator.cache.workqueue import Key

TIMEOUT_SECONDS = 20


class RecordingDebounce:
    """A debounce that records the enqueued keys."""

    def __init__(self) -> None:
        self.keys: asyncio.Queue[Key] = asyncio.Queue()
        self._debounce = CreateDebounce(self.keys.put_nowait)

    def create(self, number: int) -> None:
        self._debounce.add(("shop", str(number)))

    async def numbers(self, count: int) -> list[int]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return [int((await self.keys.get())[1]) for _ in range(count)]


async def test_a_single_new_streamconsumer_is_enqueued() -> None:
    debounce = RecordingDebounce()
    debounce.create(1)
    assert await debounce.numbers(1) == [1]


async def test_a_burst_is_enqueued_in_order_after_the_last_creation() -> None:
    debounce = RecordingDebounce()
    for number in range(50):
        debounce.create(number)
        await asyncio.sleep(0)
        assert debounce.keys.empty()
    assert await debounce.numbers(50) == list(range(50))


async def test_a_continuing_burst_is_enqueued_after_the_maximum_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create_debounce, "QUIET_PERIOD", timedelta(milliseconds=50))
    monkeypatch.setattr(create_debounce, "MAX_DELAY", timedelta(milliseconds=100))
    debounce, created = RecordingDebounce(), 0
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while debounce.keys.empty():
            debounce.create(created)
            created += 1
            await asyncio.sleep(0)
    assert await debounce.numbers(debounce.keys.qsize()) == list(range(created))


async def test_each_burst_is_delayed() -> None:
    debounce = RecordingDebounce()
    debounce.create(1)
    assert await debounce.numbers(1) == [1]
    debounce.create(2)
    assert debounce.keys.empty()
    assert await debounce.numbers(1) == [2]
