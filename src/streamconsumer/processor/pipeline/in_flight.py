"""The in-flight table: the only gate for entries, and the slots in which they are handled.

An entry is in the table from being taken in until it is done with here, whichever way it came: read, replayed, taken
over or due again. What is in it is never taken in again, so one entry is never in two handlers of one process.

A slot is a task that handles one message after another: a task for each message would cost as much as all the rest
(1.6 of 3 microseconds). What a handler leaves behind in context variables must not reach the next message: then the
slot ends, and a new one begins.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from contextvars import copy_context
from datetime import timedelta
from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.ready_queue import MOST_HELD_BYTES, Gate, Held, Ready
from streamconsumer.processor.pipeline.timeouts import Overdue

log = logging.getLogger(__name__)

AFTER_CANCELLING = timedelta(seconds=1)
"""How long a handler that was cancelled is waited for."""

MOST_TRIED = 100
"""How many entries may be held while the circuit breaker is open before no more is read to be tried."""

BUSY_SECONDS = 0.1
"""How long a message waits again whose thread is still at the attempt before."""

UNSETTLED_SECONDS = 1.0
"""How long a message waits of which nobody can tell how it ended."""


class InFlight:
    """Entries that wait for a slot, have one, or wait to be tried again. `run` handles one and raises nothing."""

    def __init__(
        self,
        run: Callable[[Entry], Coroutine[Any, Any, None]],
        *,
        concurrency: int,
        metrics: Metrics,
        busy: Collection[str] = (),
        ordering_key: str | None = None,
        timeout: timedelta | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._run, self._concurrency, self._metrics = run, concurrency, metrics
        self._busy = busy
        """Messages that a thread is still at although whoever awaited it was cancelled."""
        self._gate = gate
        self.entries: dict[str, Entry] = {}
        self._held = Held()
        self.ready = Ready(ordering_key, self._held)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self.overdue = Overdue(timeout)
        self._slots: set[asyncio.Task[None]] = set()
        self._resting: list[asyncio.Future[None]] = []
        """One for each slot that has nothing to do."""
        self._companions = 0
        """How many of those that run share the slot of another."""
        self.closed = False
        self._pristine = copy_context()
        """What every message finds in context variables."""
        self.express: Callable[[Entry, asyncio.Task[None]], Coroutine[Any, Any, Entry | None]] | None = None
        """Handles an entry and what is ready behind it while that is ordinary; returns one that is not."""
        self.ahead = 0
        """How many entries may wait for a slot while more are read: 0 where handlers are slow, for what one pod
        buffers its peers cannot have."""
        self.room = asyncio.Event()
        """Set while it is time to read more. Set for good once closed."""
        self.room.set()
        metrics.count_in_flight = self.tasks.__len__

    @property
    def waiting(self) -> int:
        """How many have not begun, or wait to be tried again."""
        return len(self.entries) - len(self.tasks)

    @property
    def running(self) -> int:
        return len(self.tasks)

    def ids(self) -> list[str]:
        """Everything in flight, oldest first. Another thread may ask."""
        return list(self.entries)

    def get(self, message_id: str) -> Entry | None:
        """The entry, if it is in flight."""
        return self.entries.get(message_id)

    def take_in(self, entries: Collection[Entry]) -> None:
        """Take in what is not in flight already, and begin what there are slots for."""
        table, busy = self.entries, self._busy
        new = {entry.message_id: entry for entry in entries}
        if busy or not table.keys().isdisjoint(new):
            new = {each: entry for each, entry in new.items() if each not in table and each not in busy}
        table.update(new)
        self.ready.put_all(new.values())
        self._metrics.delivered += len(new)
        self.advance()

    def lose(self, message_id: str) -> bool:
        """Another consumer has it: what runs is cancelled, unless it is part of a batch; what has not begun never will.
        False: not in flight."""
        entry = self.entries.get(message_id)
        if entry is None or entry.fate == "lost":
            return False
        entry.fate = "lost"
        if task := self.tasks.get(message_id):
            if not self._is_wanted(task):
                task.cancel()
            return True
        del self.entries[message_id]
        if timer := self._waiting.pop(message_id, None):
            timer.cancel()
            self._held.discard(entry)
            self.ready.done(entry)
        else:
            self.ready.remove(entry)
        self.advance()
        return True

    def wait(self, entry: Entry, seconds: float) -> None:
        """To be said of one that runs: when it has ended, it stays in flight and begins again after so long. What
        another consumer has by now waits for nothing."""
        if entry.fate == "lost":
            return
        entry.fate = "waits"
        entry.is_counted = entry.is_fresh = False
        self._held.add(entry)
        self._waiting[entry.message_id] = asyncio.get_running_loop().call_later(seconds, self._again, entry)

    def close(self) -> None:
        """Begin nothing any more."""
        self.closed = True
        self.room.set()
        self._wake(len(self._resting))

    def hand_over(self) -> list[tuple[Entry, float]]:
        """What has not begun, and in how many seconds it should; forgotten here, and so not renewed any more either."""
        now = asyncio.get_running_loop().time()
        left = [(entry, 0.0) for entry in self.ready.clear()]
        for message_id, timer in list(self._waiting.items()):
            if message_id not in self.tasks:
                timer.cancel()
                del self._waiting[message_id]
                self._held.discard(self.entries[message_id])
                left.append((self.entries[message_id], max(0.0, timer.when() - now)))
        for entry, _ in left:
            del self.entries[entry.message_id]
        return left

    async def finish(self, deadline: float, hurry: asyncio.Event) -> None:
        """Wait for what runs until the deadline (monotonic seconds) or until hurried; then cancel it."""
        hurried = asyncio.create_task(hurry.wait())
        while self.tasks and not hurried.done() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({hurried, *self.tasks.values()}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if running := set(self.tasks.values()):
            self._metrics.abandoned += len(self.tasks)
            log.warning("drain ended with messages running; they stay pending", extra={"messages": len(self.tasks)})
            for message_id in self.tasks:
                self.entries[message_id].fate = "drained"
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=AFTER_CANCELLING.total_seconds())
        self.overdue.stop()

    def advance(self) -> None:
        """Begin what is ready while slots are free, and say whether there is room to read more."""
        if not self.closed and (ready := len(self.ready)):
            ready -= self._wake(ready)
            for _ in range(min(ready, self._concurrency - len(self._slots))):
                task = asyncio.create_task(self._slot(), name="slot", context=self._pristine.copy())
                self._slots.add(task)
        self.tell_room()

    # -- batches: several entries in one slot ------------------------------------------------------------------------

    def join(self, first: Entry, most: int, may_join: Callable[[Entry], bool]) -> list[Entry]:
        """What else is ready begins in the slot of the first one, in its order, at most so many and up to one that may
        not. With each of them `part` is to be called. A trial of the circuit breaker runs alone."""
        joined: list[Entry] = []
        if self.closed or self._is_gated():
            return joined
        task = self.tasks[first.message_id]
        while len(joined) < most and (entry := self.ready.take_if(may_join)):
            self._companions += 1
            self.tasks[entry.message_id] = task
            self._begins(entry)
            joined.append(entry)
        self.tell_room()
        return joined

    def part(self, entry: Entry) -> None:
        """One that joined is done with; or it waits, and begins again by itself."""
        self._companions -= 1
        self.ended(entry)

    def _is_wanted(self, task: asyncio.Task[None]) -> bool:
        """Whether a message that runs there is still ours."""
        return any(each is task and self.entries[id_].fate != "lost" for id_, each in self.tasks.items())

    # -- slots -----------------------------------------------------------------------------------------------------

    async def _slot(self) -> None:
        """Handle one message after another."""
        task = asyncio.current_task()
        assert task
        express = self.express
        try:
            while not self.closed:
                entry = self._next()
                if entry is None:
                    await self._rest()
                    continue
                is_ordinary = entry.is_fresh and not self._is_gated()
                left = await express(entry, task) if express and is_ordinary else entry
                if left is not None:
                    await self._run_one(left, task)
                if task.cancelling() or copy_context() != self._pristine:
                    break
        finally:
            self._slots.discard(task)
            self.advance()

    def _is_gated(self) -> bool:
        return self._gate is not None and self._gate.is_open

    def _may_try(self) -> bool:
        return self._gate is not None and self._gate.allows()

    def _next(self) -> Entry | None:
        """Whoever begins now. The trial of a circuit breaker is one that has not failed yet, if there is one: where
        only some messages cannot be handled, the others must not wait behind them."""
        if not self._is_gated():
            return self.ready.take()
        return (self.ready.take_untried() or self.ready.take()) if self._may_try() else None

    async def _run_one(self, entry: Entry, task: asyncio.Task[None]) -> None:
        self.tasks[entry.message_id] = task
        self._begins(entry)
        if not self.ready.free:
            self.tell_room()
        try:
            await self._run(entry)
        except BaseException:
            self.unsettled(entry)
            raise
        finally:
            self.ended(entry)

    async def _rest(self) -> None:
        """Until there is something to do."""
        self.tell_room()
        waiter = asyncio.get_running_loop().create_future()
        self._resting.append(waiter)
        await waiter

    def _wake(self, most: int) -> int:
        """Wake so many slots that rest; returns how many there were."""
        woken = self._resting[:most]
        del self._resting[:most]
        for waiter in woken:
            waiter.set_result(None)
        return len(woken)

    def tell_room(self) -> None:
        if self.closed or (self._has_room_for_trials() if self._is_gated() else self._has_room()):
            self.room.set()
        else:
            self.room.clear()

    def _has_room(self) -> bool:
        ready = len(self.ready)
        has_slot = not ready and len(self.tasks) - self._companions < self._concurrency
        return (has_slot or ready <= self.ahead > 0) and not self._held.is_full

    def _has_room_for_trials(self) -> bool:
        if not self._may_try() or self.ready.has_untried() or len(self.entries) >= MOST_TRIED:
            return False
        return sum(entry.size_bytes() for entry in self.entries.values()) < MOST_HELD_BYTES

    def _begins(self, entry: Entry) -> None:
        """As a trial of the circuit breaker, if that is open."""
        if self._gate is not None and self._gate.is_open:
            entry.trial = self._gate.begun()

    def unsettled(self, entry: Entry) -> None:
        """To be said before `ended` of one whose slot ends in the middle of it, and not because somebody here wants
        that: a handler may cancel its own task. It begins again, and that counts, so that it has an end."""
        if not self.closed and entry.fate in {"", "timeout"}:
            log.warning(
                "a message has not ended as it should; it is tried again", extra={"message_id": entry.message_id}
            )
            self.wait(entry, UNSETTLED_SECONDS)

    def ended(self, entry: Entry) -> None:
        del self.tasks[entry.message_id]
        if entry.trial and self._gate is not None:
            entry.trial = False
            self._gate.undecided(trial=True)
        if entry.message_id in self._waiting:
            self.ready.rest(entry)
            return
        self.entries.pop(entry.message_id, None)
        if entry.suspect or entry.lane is not None:  # nobody stands behind any other
            self.ready.done(entry)

    def _again(self, entry: Entry) -> None:
        """Its wait is over."""
        if entry.message_id in self._busy or entry.message_id in self.tasks:
            timer = asyncio.get_running_loop().call_later(BUSY_SECONDS, self._again, entry)
            self._waiting[entry.message_id] = timer
            return
        del self._waiting[entry.message_id]
        self._held.discard(entry)
        entry.fate = ""
        self.ready.again(entry)
        self.advance()
