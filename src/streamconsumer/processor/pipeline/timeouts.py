"""`delivery.timeout`: one timer for all handlers that run, which ends the one that is late."""

import asyncio
from datetime import timedelta

from streamconsumer.processor.message import Entry


class HandlerTimeouts:
    """Cancels handlers that take too long, and nothing else: what Redis takes to note that a message begins, or what
    became of it, is not the handler's, and must not be cut off."""

    def __init__(self, timeout: timedelta | None) -> None:
        self.timeout = timeout
        self._seconds = timeout.total_seconds() if timeout else None
        self._running: dict[Entry, asyncio.Task[None]] = {}
        """In the order in which they were called."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, entry: Entry, task: asyncio.Task[None]) -> None:
        """Its handler is called: its time runs, if there is a limit."""
        if self._seconds is None:
            return
        loop = asyncio.get_running_loop()
        entry.started_seconds = loop.time()
        self._running[entry] = task
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._cancel_overdue)

    def finish(self, entry: Entry) -> None:
        """Its handler has ended."""
        self._running.pop(entry, None)

    def close(self) -> None:
        """Nothing runs any more."""
        if self._timer:
            self._timer.cancel()

    def _cancel_overdue(self) -> None:
        """They begin in order and have the same time, so the first is the first to be late."""
        assert self._seconds is not None
        loop = asyncio.get_running_loop()
        self._timer = None
        for entry, task in list(self._running.items()):
            left = entry.started_seconds + self._seconds - loop.time()
            if left > 0:
                self._timer = loop.call_later(left, self._cancel_overdue)
                return
            self.finish(entry)
            if not entry.disposition:
                entry.disposition = "timeout"
                task.cancel()
