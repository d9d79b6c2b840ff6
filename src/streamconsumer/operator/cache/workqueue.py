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

from streamconsumer.errors import ApiThrottled

Key = tuple[str, str]
"""The namespace and the name of a StreamConsumer."""

BASE_DELAY = timedelta(milliseconds=200)
MAX_DELAY = timedelta(minutes=2)

ReconcileFunc = Callable[[Key], Awaitable[timedelta | None]]
"""What is done for a key. Returns after how long it wants to be looked at again, if at all."""

log = logging.getLogger(__name__)


class WorkQueue:
    """`add` keys from anywhere on the event loop; `work` runs `act(key)` for each until cancelled."""

    def __init__(self) -> None:
        self._queued: OrderedDict[Key, float] = OrderedDict()
        """Since when, by the monotonic clock."""
        self.queue_seconds: dict[Key, float] = {}
        """Of those that are being worked on, how long they had waited for it."""
        self._in_progress: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wakeup = asyncio.Event()
        self._paused_until = 0.0

    def __len__(self) -> int:
        return len(self._queued) + len(self._in_progress)

    def add(self, key: Key) -> None:
        """Ask for a reconcile of this key as soon as a worker is free."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._queued.setdefault(key, time.monotonic())
        self._wakeup.set()

    async def run_workers(self, reconcile: ReconcileFunc, workers: int) -> None:
        """Serve the queue with this many workers, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(reconcile))

    async def _worker(self, reconcile: ReconcileFunc) -> None:
        while True:
            key = await self._next()
            try:
                again = await reconcile(key)
            except ApiThrottled as busy:
                self._pause_all(busy, key)
            except Exception:  # noqa: BLE001 - whatever one object causes stays with that object
                self._add_after(key, self._retry_delay(key))
            else:
                self._failures.pop(key, None)
                if again:
                    self._add_after(key, again)
            finally:
                self._in_progress.discard(key)
                self.queue_seconds.pop(key, None)
                self._wakeup.set()  # it may have been added again meanwhile

    def _pause_all(self, throttled: ApiThrottled, key: Key) -> None:
        """The server means all of us, not only this key: nothing begins until then. It is no failure of the key's."""
        pause = throttled.retry_after.total_seconds() * random.uniform(1, 1.25)  # noqa: S311 - jitter
        log.warning("the API server is busy", extra={"error": str(throttled), "pause_seconds": pause})
        self._paused_until = max(self._paused_until, time.monotonic() + pause)
        self.add(key)

    async def _next(self) -> Key:
        while True:
            while (rest := self._paused_until - time.monotonic()) > 0:  # noqa: ASYNC110 - a clock, not an event
                await asyncio.sleep(rest)
            for key in self._queued:
                if key not in self._in_progress:
                    self.queue_seconds[key] = time.monotonic() - self._queued.pop(key)
                    self._in_progress.add(key)
                    return key
            self._wakeup.clear()
            await self._wakeup.wait()

    def _retry_delay(self, key: Key) -> timedelta:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause: timedelta = min(BASE_DELAY * 2 ** min(failures - 1, 20), MAX_DELAY) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
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

    def _add_after(self, key: Key, delay: timedelta) -> None:
        if key not in self._queued and key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(delay.total_seconds(), self.add, key)
