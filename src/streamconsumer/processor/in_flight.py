"""The in-flight table: the only gate for entries, and the slots in which they are handled.

An entry is in the table from being taken in until its handling has ended, whichever way it came: read, replayed or
claimed. What is in it is never taken in again, so one entry is never in two handlers of one process.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from datetime import timedelta
from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics

log = logging.getLogger(__name__)

AFTER_CANCELLING = timedelta(seconds=1)
"""How long a handler that was cancelled is waited for."""


class InFlight:
    """Entries that wait for a slot and entries that have one. `run` handles one; at most `concurrency` at a time."""

    def __init__(
        self,
        run: Callable[[Entry], Coroutine[Any, Any, None]],
        *,
        concurrency: int,
        metrics: Metrics,
        busy: Collection[str] = (),
    ) -> None:
        self._run, self._concurrency, self._metrics = run, concurrency, metrics
        self._busy = busy
        """Messages that a thread is still at although whoever awaited it was cancelled."""
        self._entries: dict[str, Entry] = {}
        self._ready: deque[Entry] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._lost: set[str] = set()
        self._closed = False
        self.room = asyncio.Event()
        """Set while a slot is free and nothing waits for one: time to read more. Set for good once closed."""
        self.room.set()

    @property
    def waiting(self) -> int:
        return len(self._ready)

    @property
    def running(self) -> int:
        return len(self._running)

    def ids(self) -> list[str]:
        """Everything in flight, oldest first."""
        return list(self._entries)

    def deliveries(self, message_id: str) -> int:
        """How often the entry was delivered; 1 for one that is not in flight."""
        entry = self._entries.get(message_id)
        return entry.deliveries if entry else 1

    def is_lost(self, message_id: str) -> bool:
        """Whether another consumer took it while it ran here: its outcome is not ours to commit."""
        return message_id in self._lost

    def take_in(self, entries: Collection[Entry]) -> None:
        """Take in what is not in flight already, and begin what there are slots for."""
        for entry in entries:
            if entry.message_id not in self._entries and entry.message_id not in self._busy:
                self._entries[entry.message_id] = entry
                self._ready.append(entry)
                self._metrics.delivered += 1
        self._advance()

    def lose(self, message_id: str) -> bool:
        """Another consumer has it: what runs is cancelled, what has not begun never will. False: not in flight."""
        entry = self._entries.get(message_id)
        if entry is None or message_id in self._lost:
            return False
        if task := self._running.get(message_id):
            self._lost.add(message_id)
            task.cancel()
        else:
            self._ready.remove(entry)
            self._end(message_id)
        return True

    def close(self) -> None:
        """Begin nothing any more."""
        self._closed = True
        self.room.set()

    def hand_over(self) -> list[str]:
        """The ids of what was not begun; forgotten here, and so not renewed any more either."""
        unbegun = [entry.message_id for entry in self._ready]
        self._ready.clear()
        for message_id in unbegun:
            del self._entries[message_id]
        return unbegun

    async def finish(self, deadline: float, hurry: asyncio.Event) -> None:
        """Wait for what runs until the deadline (monotonic seconds) or until hurried; then cancel it."""
        hurried = asyncio.create_task(hurry.wait())
        while self._running and not hurried.done() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({hurried, *self._running.values()}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if running := set(self._running.values()):
            log.warning("drain ended with messages running; they stay pending", extra={"messages": len(running)})
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=AFTER_CANCELLING.total_seconds())

    def _advance(self) -> None:
        """Begin what is ready while slots are free, and say whether there is room to read more."""
        while self._ready and len(self._running) < self._concurrency and not self._closed:
            entry = self._ready.popleft()
            task = asyncio.create_task(self._run(entry))
            self._running[entry.message_id] = task
            task.add_done_callback(lambda _, message_id=entry.message_id: self._end(message_id))  # type: ignore[misc] # mypy cannot infer a lambda with a default
        self._metrics.in_flight = len(self._running)
        if self._closed or (not self._ready and len(self._running) < self._concurrency):
            self.room.set()
        else:
            self.room.clear()

    def _end(self, message_id: str) -> None:
        self._running.pop(message_id, None)
        self._entries.pop(message_id, None)
        self._lost.discard(message_id)
        self._advance()
