"""Handler timeouts (`delivery.timeout`): a single timer cancels all handlers that exceed the timeout."""

import asyncio
from datetime import timedelta

from streamconsumer.processor.entry_state import RUNNING
from streamconsumer.processor.message import Entry


class HandlerTimeouts:
    """Cancels handlers that take too long.

    The timeout applies only to the handler. Redis commands that count or settle an attempt must not be cancelled."""

    def __init__(self, timeout: timedelta | None) -> None:
        self.timeout = timeout
        self._seconds = timeout.total_seconds() if timeout else None
        self._running: dict[Entry, tuple[asyncio.Task[None], float]] = {}
        """Entries whose handlers are running, in the order in which the handlers were called. Each value contains the
        task, and the time of the call by the clock of the event loop."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, entry: Entry, task: asyncio.Task[None]) -> None:
        """Start the timeout of a handler. Does nothing if `delivery.timeout` is not set."""
        if self._seconds is None:
            return
        loop = asyncio.get_running_loop()
        self._running[entry] = task, loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._cancel_overdue)

    def finish(self, entry: Entry) -> None:
        """End the timeout of a handler that has returned or raised an error."""
        self._running.pop(entry, None)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer:
            self._timer.cancel()

    def _cancel_overdue(self) -> None:
        """Cancel overdue handlers, and set the timer for the handler whose timeout expires next.

        All handlers have the same timeout, so the handler that was called first is the first to exceed it."""
        assert self._seconds is not None
        loop = asyncio.get_running_loop()
        self._timer = None
        for entry, (task, started_seconds) in list(self._running.items()):
            seconds_left = started_seconds + self._seconds - loop.time()
            if seconds_left > 0:
                self._timer = loop.call_later(seconds_left, self._cancel_overdue)
                return
            self.finish(entry)
            if entry.state is RUNNING:
                entry.apply("expire")
                task.cancel()
