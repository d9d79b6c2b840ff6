"""Delays the first reconcile of new StreamConsumers until a burst of creations has ended.

`kubectl` creates a list of StreamConsumers one by one. Each reconcile during that time takes CPU time from the API
server and delays the rest of the list.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from streamconsumer.operator.cache.workqueue import Key

QUIET = timedelta(milliseconds=100)
"""The time without another creation after which the burst has ended."""

LONGEST = timedelta(seconds=5)
"""The time after which the collected StreamConsumers start even if the burst continues."""


class Arrivals:
    """Collects the keys that `came` receives and passes them to `begin` in the same order."""

    def __init__(self, begin: Callable[[Key], None]) -> None:
        self._begin = begin
        self._first = self._latest = 0.0
        self._waiting: dict[Key, None] = {}

    def came(self, key: Key) -> None:
        """Add a StreamConsumer that was created now."""
        loop = asyncio.get_running_loop()
        self._latest = loop.time()
        if not self._waiting:
            self._first = self._latest
            loop.call_later(QUIET.total_seconds(), self._go)
        self._waiting[key] = None

    def _go(self) -> None:
        loop = asyncio.get_running_loop()
        due = min(self._latest + QUIET.total_seconds(), self._first + LONGEST.total_seconds())
        if loop.time() < due:
            loop.call_at(due, self._go)
            return
        waiting, self._waiting = self._waiting, {}
        for key in waiting:
            self._begin(key)
