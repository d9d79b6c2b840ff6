"""Delays the first reconcile of new StreamConsumers until a burst of creations has ended.

`kubectl` creates the StreamConsumers of a list one after another. A reconcile during these creations uses CPU time of
the API server, and so delays the remaining creations.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from streamconsumer.operator.cache.workqueue import Key

QUIET_PERIOD = timedelta(milliseconds=100)
"""A burst of creations has ended if no StreamConsumer has been created for this time."""

MAX_DELAY = timedelta(seconds=5)
"""The collected StreamConsumers are enqueued no later than this time after the first creation, even if the burst
continues."""


class CreateDebounce:
    """Collects the keys of new StreamConsumers, and enqueues the keys in the order of creation."""

    def __init__(self, enqueue: Callable[[Key], None]) -> None:
        self._enqueue = enqueue
        self._first_seconds = self._latest_seconds = 0.0
        self._collected: dict[Key, None] = {}

    def add(self, key: Key) -> None:
        """Add the key of a StreamConsumer that was just created."""
        loop = asyncio.get_running_loop()
        self._latest_seconds = loop.time()
        if not self._collected:
            self._first_seconds = self._latest_seconds
            loop.call_later(QUIET_PERIOD.total_seconds(), self._flush_if_quiet)
        self._collected[key] = None

    def _flush_if_quiet(self) -> None:
        loop = asyncio.get_running_loop()
        due = min(self._latest_seconds + QUIET_PERIOD.total_seconds(), self._first_seconds + MAX_DELAY.total_seconds())
        if loop.time() < due:
            loop.call_at(due, self._flush_if_quiet)
            return
        collected, self._collected = self._collected, {}
        for key in collected:
            self._enqueue(key)
