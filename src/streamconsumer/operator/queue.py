"""The keyed work queue between the watch and the workers.

A key waits once however often it is added; it is never with two workers; what is added while a worker has it is
done once more after. A failure comes back after a pause that doubles and is forgotten at the first success.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta

Key = tuple[str, str]
"""The namespace and the name of a StreamConsumer."""

FIRST_PAUSE = timedelta(milliseconds=200)
LONGEST_PAUSE = timedelta(minutes=2)

log = logging.getLogger(__name__)


class KeyedQueue:
    """`add` keys from anywhere on the event loop; `work` runs `act(key)` for each until cancelled."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Key, None] = OrderedDict()
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._something = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def add(self, key: Key) -> None:
        """Ask for a reconcile of this key as soon as a worker is free."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._waiting[key] = None
        self._something.set()

    async def work(self, act: Callable[[Key], Awaitable[None]], workers: int) -> None:
        """Serve the queue with this many workers, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(act))

    async def _worker(self, act: Callable[[Key], Awaitable[None]]) -> None:
        while True:
            key = await self._next()
            try:
                await act(key)
            except Exception:  # whatever one object causes stays with that object
                self._retry(key)
            else:
                self._failures.pop(key, None)
            finally:
                self._working.discard(key)
                self._something.set()  # it may have been added again meanwhile

    async def _next(self) -> Key:
        while True:
            for key in self._waiting:
                if key not in self._working:
                    del self._waiting[key]
                    self._working.add(key)
                    return key
            self._something.clear()
            await self._something.wait()

    def _retry(self, key: Key) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 20), LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        log.warning(
            "reconcile failed; it will be tried again",
            exc_info=True,
            extra={
                "namespace": key[0],
                "consumer": key[1],
                "failures": failures,
                "pause_seconds": pause.total_seconds(),
            },
        )
        if key not in self._waiting and key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(pause.total_seconds(), self.add, key)
