"""Handler timeouts (`delivery.timeout`): one timer for all running handlers cancels those that exceed the timeout."""

import asyncio
from datetime import timedelta

from streamconsumer.processor.message import Entry


class HandlerTimeouts:
    """Cancels handlers that take too long.

    Only the handler is timed. The Redis commands that count and settle the attempt are not, and must not be cut off."""

    def __init__(self, timeout: timedelta | None) -> None:
        self.timeout = timeout
        self._seconds = timeout.total_seconds() if timeout else None
        self._running: dict[Entry, asyncio.Task[None]] = {}
        """Running entries in the order in which their handlers were called."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, entry: Entry, task: asyncio.Task[None]) -> None:
        """Start the timeout of a handler. Does nothing without a timeout."""
        if self._seconds is None:
            return
        loop = asyncio.get_running_loop()
        entry.started_seconds = loop.time()
        self._running[entry] = task
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._cancel_overdue)

    def finish(self, entry: Entry) -> None:
        """End the timeout of a handler."""
        self._running.pop(entry, None)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer:
            self._timer.cancel()

    def _cancel_overdue(self) -> None:
        """Cancel overdue handlers and set the timer to the next one.

        Handlers start in order and have the same timeout, so the first entry is the first to be overdue."""
        assert self._seconds is not None
        loop = asyncio.get_running_loop()
        self._timer = None
        for entry, task in list(self._running.items()):
            seconds_left = entry.started_seconds + self._seconds - loop.time()
            if seconds_left > 0:
                self._timer = loop.call_later(seconds_left, self._cancel_overdue)
                return
            self.finish(entry)
            if not entry.disposition:
                entry.disposition = "timeout"
                task.cancel()
