"""`delivery.timeout`: one timer for all messages that run, which ends the one that is late."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from streamconsumer.processor.message import Entry


class Overdue:
    """Cancels what takes too long. `tasks` are those that run, by message, in the order in which they began."""

    def __init__(
        self, timeout: timedelta | None, entries: Mapping[str, Entry], tasks: Mapping[str, asyncio.Task[None]]
    ) -> None:
        self._seconds = timeout.total_seconds() if timeout else None
        self._entries, self._tasks = entries, tasks
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, entry: Entry) -> None:
        """It begins: its time runs, if there is a limit."""
        if self._seconds is None:
            return
        loop = asyncio.get_running_loop()
        entry.started_seconds = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._end)

    def stop(self) -> None:
        """Nothing runs any more."""
        if self._timer:
            self._timer.cancel()

    def _end(self) -> None:
        """They begin in order and have the same time, so the first is the first to be late."""
        assert self._seconds is not None
        loop = asyncio.get_running_loop()
        self._timer = None
        for message_id, task in list(self._tasks.items()):
            entry = self._entries[message_id]
            left = entry.started_seconds + self._seconds - loop.time()
            if left > 0:
                self._timer = loop.call_later(left, self._end)
                return
            if not entry.fate:
                entry.fate = "timeout"
                task.cancel()
