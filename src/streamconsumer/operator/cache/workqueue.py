"""The keyed work queue between the watch and the workers.

A key waits once however often it is added; it is never with two workers; what is added while a worker has it is
done once more after. A failure comes back after a pause that doubles and is forgotten at the first success; what is
no failure and cannot be finished yet may ask to be looked at again.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta

from streamconsumer.errors import ServerBusy

Key = tuple[str, str]
"""The namespace and the name of a StreamConsumer."""

FIRST_PAUSE = timedelta(milliseconds=200)
LONGEST_PAUSE = timedelta(minutes=2)

Act = Callable[[Key], Awaitable[timedelta | None]]
"""What is done for a key. Returns after how long it wants to be looked at again, if at all."""

log = logging.getLogger(__name__)


class KeyedQueue:
    """`add` keys from anywhere on the event loop; `work` runs `act(key)` for each until cancelled."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Key, float] = OrderedDict()
        """Since when, by the monotonic clock."""
        self.waited_seconds: dict[Key, float] = {}
        """Of those that are being worked on, how long they had waited for it."""
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._something = asyncio.Event()
        self._rests_until = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)

    def add(self, key: Key) -> None:
        """Ask for a reconcile of this key as soon as a worker is free."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._waiting.setdefault(key, time.monotonic())
        self._something.set()

    async def work(self, act: Act, workers: int) -> None:
        """Serve the queue with this many workers, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(act))

    async def _worker(self, act: Act) -> None:
        while True:
            key = await self._next()
            try:
                again = await act(key)
            except ServerBusy as busy:
                self._rest(busy, key)
            except Exception:  # noqa: BLE001 - whatever one object causes stays with that object
                self._add_later(key, self._after_failure(key))
            else:
                self._failures.pop(key, None)
                if again:
                    self._add_later(key, again)
            finally:
                self._working.discard(key)
                self.waited_seconds.pop(key, None)
                self._something.set()  # it may have been added again meanwhile

    def _rest(self, busy: ServerBusy, key: Key) -> None:
        """The server means all of us, not only this key: nothing begins until then. It is no failure of the key's."""
        pause = busy.after.total_seconds() * random.uniform(1, 1.25)  # noqa: S311 - jitter
        log.warning("the API server is busy", extra={"error": str(busy), "pause_seconds": pause})
        self._rests_until = max(self._rests_until, time.monotonic() + pause)
        self.add(key)

    async def _next(self) -> Key:
        while True:
            while (rest := self._rests_until - time.monotonic()) > 0:  # noqa: ASYNC110 - a clock, not an event
                await asyncio.sleep(rest)
            for key in self._waiting:
                if key not in self._working:
                    self.waited_seconds[key] = time.monotonic() - self._waiting.pop(key)
                    self._working.add(key)
                    return key
            self._something.clear()
            await self._something.wait()

    def _after_failure(self, key: Key) -> timedelta:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause: timedelta = min(FIRST_PAUSE * 2 ** min(failures - 1, 20), LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        log.warning(
            "reconcile failed; it will be tried again",
            exc_info=True,  # noqa: LOG014 - called where it is handled
            extra={
                "namespace": key[0],
                "consumer": key[1],
                "failures": failures,
                "pause_seconds": pause.total_seconds(),
            },
        )
        return pause

    def _add_later(self, key: Key, pause: timedelta) -> None:
        if key not in self._waiting and key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(pause.total_seconds(), self.add, key)
