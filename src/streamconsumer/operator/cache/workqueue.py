"""The work queue between the watches and the workers. The queue contains the keys of StreamConsumers.

The queue deduplicates keys, never gives a key to two workers at the same time, and queues a key again if the key is
added during its reconcile. The namespaces take turns. After a failed reconcile, the key is queued again after a delay.
The delay doubles with every failure, and a success resets the delay. A successful reconcile may request another
reconcile after a delay.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container
from datetime import timedelta

from streamconsumer.errors import ApiThrottled

Key = tuple[str, str]
"""The namespace and the name of a StreamConsumer."""

BASE_DELAY = timedelta(milliseconds=200)
"""The delay after the first failure, varied randomly by ±25 %."""

MAX_DELAY = timedelta(minutes=2)
"""The maximum delay after repeated failures, varied randomly by ±25 %."""

ReconcileFunc = Callable[[Key], Awaitable[timedelta | None]]
"""The function that reconciles a StreamConsumer. Returns the delay before the next reconcile, or None if no reconcile
is requested."""

log = logging.getLogger(__name__)


class FairQueue:
    """Waiting keys, each with the monotonic time at which the key was added.

    The namespaces take turns. Otherwise, an edit would wait until the operator has reconciled all StreamConsumers of
    another namespace. The keys of a namespace keep their order. Adding or taking a key takes the same time for any
    number of keys."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, OrderedDict[Key, float]] = OrderedDict()
        """The keys of each namespace. The namespace whose turn is next comes first."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting.get(key[0], ())

    def add(self, key: Key, added_seconds: float) -> None:
        """Add a key that does not wait yet."""
        self._waiting.setdefault(key[0], OrderedDict())[key] = added_seconds
        self._length += 1

    def next_key(self, excluded: Container[Key]) -> Key | None:
        """Return the next key that is not excluded, or None if there is no such key."""
        return next((key for keys in self._waiting.values() for key in keys if key not in excluded), None)

    def take(self, key: Key) -> float:
        """Remove a waiting key, and end the turn of its namespace. Returns the time at which the key was added."""
        namespace, _ = key
        added_seconds = self._waiting[namespace].pop(key)
        self._length -= 1
        self._waiting.move_to_end(namespace)
        if not self._waiting[namespace]:
            del self._waiting[namespace]
        return added_seconds


class WorkQueue:
    """The queue of StreamConsumers that wait for a reconcile. The queue is not thread-safe: use it on one event
    loop."""

    def __init__(self, is_large: Callable[[Key], bool] = lambda _: False) -> None:
        """`is_large` returns True if the reconcile of a key needs much memory. One worker reconciles these keys one
        after another, and the other workers continue with other keys."""
        self._is_large = is_large
        self._large, self._ordinary = FairQueue(), FairQueue()
        self._large_in_progress: Key | None = None
        self.queue_seconds: dict[Key, float] = {}
        """The time that each key waited in the queue before its current reconcile."""
        self._in_progress: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wakeup = asyncio.Event()
        self._paused_until = 0.0

    def __len__(self) -> int:
        return len(self._large) + len(self._ordinary) + len(self._in_progress)

    def add(self, key: Key) -> None:
        """Request a reconcile of this key as soon as a worker is free."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        queue, other = (self._large, self._ordinary) if self._is_large(key) else (self._ordinary, self._large)
        if key not in queue:
            queue.add(key, other.take(key) if key in other else time.monotonic())
        self._wakeup.set()

    async def run_workers(self, reconcile: ReconcileFunc, workers: int) -> None:
        """Reconcile the queued keys with `workers` concurrent workers, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(reconcile))

    async def _worker(self, reconcile: ReconcileFunc) -> None:
        while True:
            key = await self._next()
            try:
                delay = await reconcile(key)
            except ApiThrottled as throttled:
                self._pause_all(throttled, key)
            except Exception:  # noqa: BLE001 - an error of one object must not affect others
                self._add_after(key, self._retry_delay(key))
            else:
                self._failures.pop(key, None)
                if delay:
                    self._add_after(key, delay)
            finally:
                self._in_progress.discard(key)
                if key == self._large_in_progress:
                    self._large_in_progress = None
                self.queue_seconds.pop(key, None)
                self._wakeup.set()  # the key may have been added again during its reconcile
            await asyncio.sleep(0)  # a reconcile without a change awaits nothing, and would not let other tasks run

    def _pause_all(self, throttled: ApiThrottled, key: Key) -> None:
        """Pause all workers for the time that the API server requests, and queue the key again without counting a
        failure."""
        pause = throttled.retry_after.total_seconds() * random.uniform(1, 1.25)  # noqa: S311 - jitter
        log.warning(
            "API server is throttling requests; pausing all reconciles",
            extra={"error": str(throttled), "pause_seconds": pause},
        )
        self._paused_until = max(self._paused_until, time.monotonic() + pause)
        self.add(key)

    async def _next(self) -> Key:
        while True:
            while (remaining := self._paused_until - time.monotonic()) > 0:  # noqa: ASYNC110 - waits for a time
                await asyncio.sleep(remaining)
            if key := self._take():
                self._in_progress.add(key)
                return key
            self._wakeup.clear()
            await self._wakeup.wait()

    def _take(self) -> Key | None:
        """Take the next key out of the queue. Returns None if no waiting key may be reconciled now."""
        queue, key = self._ordinary, None
        if not self._large_in_progress and (key := self._large.next_key(self._in_progress)):
            queue, self._large_in_progress = self._large, key
        if key := key or self._ordinary.next_key(self._in_progress):
            self.queue_seconds[key] = time.monotonic() - queue.take(key)
        return key

    def _retry_delay(self, key: Key) -> timedelta:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause: timedelta = min(BASE_DELAY * 2 ** min(failures - 1, 20), MAX_DELAY) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        log.warning(
            "reconcile failed; retrying",
            exc_info=True,  # noqa: LOG014 - called in the exception handler
            extra={
                "namespace": key[0],
                "consumer": key[1],
                "failures": failures,
                "pause_seconds": pause.total_seconds(),
            },
        )
        return pause

    def _add_after(self, key: Key, delay: timedelta) -> None:
        if key not in self._large and key not in self._ordinary and key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(delay.total_seconds(), self.add, key)
