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
from streamconsumer.processor.pipeline.ready_queue import MAX_BLOCKED_BYTES, AdmissionGate, BlockedEntries, ReadyQueue
from streamconsumer.processor.pipeline.timeouts import HandlerTimeouts

log = logging.getLogger(__name__)

CANCEL_TIMEOUT = timedelta(seconds=1)
"""How long a handler that was cancelled is waited for."""

MAX_TRIAL_CANDIDATES = 100
"""How many entries may be held while the circuit breaker is open before no more is read to be tried."""

BUSY_RETRY_SECONDS = 0.1
"""How long a message waits again whose thread is still at the attempt before."""

SELF_CANCEL_RETRY_SECONDS = 1.0
"""How long a message waits of which nobody can tell how it ended."""


class InFlightTable:
    """Entries that wait for a slot, have one, or wait to be tried again. `run` handles one and raises nothing."""

    def __init__(
        self,
        run: Callable[[Entry], Coroutine[Any, Any, None]],
        *,
        concurrency: int,
        metrics: Metrics,
        busy_ids: Collection[str] = (),
        ordering_key: str | None = None,
        timeout: timedelta | None = None,
        gate: AdmissionGate | None = None,
    ) -> None:
        self._run, self._concurrency, self._metrics = run, concurrency, metrics
        self._busy_ids = busy_ids
        """Messages that a thread is still at although whoever awaited it was cancelled."""
        self._gate = gate
        self.entries: dict[str, Entry] = {}
        self._blocked = BlockedEntries()
        self.ready_queue = ReadyQueue(ordering_key, self._blocked)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._retry_timers: dict[str, asyncio.TimerHandle] = {}
        self.timeouts = HandlerTimeouts(timeout)
        self._slots: set[asyncio.Task[None]] = set()
        self._idle_slots: list[asyncio.Future[None]] = []
        """One for each slot that has nothing to do."""
        self._batched_count = 0
        """How many of those that run share the slot of another."""
        self.is_closed = False
        self._base_context = copy_context()
        """What every message finds in context variables."""
        self.fast_path: Callable[[Entry, asyncio.Task[None]], Coroutine[Any, Any, Entry | None]] | None = None
        """Handles an entry and what is ready behind it while that is ordinary; returns one that is not."""
        self.prefetch_limit = 0
        """How many entries may wait for a slot while more are read: 0 where handlers are slow, for what one pod
        buffers its peers cannot have."""
        self.has_capacity = asyncio.Event()
        """Set while it is time to read more. Set for good once closed."""
        self.has_capacity.set()
        metrics.count_in_flight = self.tasks.__len__

    @property
    def queued(self) -> int:
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

    def admit(self, entries: Collection[Entry]) -> None:
        """Take in what is not in flight already, and begin what there are slots for."""
        table, busy = self.entries, self._busy_ids
        new = {entry.message_id: entry for entry in entries}
        if busy or not table.keys().isdisjoint(new):
            new = {each: entry for each, entry in new.items() if each not in table and each not in busy}
        table.update(new)
        self.ready_queue.put_all(new.values())
        self._metrics.delivered += len(new)
        self.dispatch()

    def drop_claimed(self, message_id: str) -> bool:
        """Another consumer has it: what runs is cancelled, unless it is part of a batch; what has not begun never will.
        False: not in flight."""
        entry = self.entries.get(message_id)
        if entry is None or entry.disposition == "lost":
            return False
        entry.disposition = "lost"
        if task := self.tasks.get(message_id):
            if not self._has_own_entries(task):
                task.cancel()
            return True
        del self.entries[message_id]
        if timer := self._retry_timers.pop(message_id, None):
            timer.cancel()
            self._blocked.discard(entry)
            self.ready_queue.complete(entry)
        else:
            self.ready_queue.remove(entry)
        self.dispatch()
        return True

    def schedule_retry(self, entry: Entry, seconds: float) -> None:
        """To be said of one that runs: when it has ended, it stays in flight and begins again after so long. What
        another consumer has by now waits for nothing."""
        if entry.disposition == "lost":
            return
        entry.disposition = "waits"
        entry.attempt_counted = entry.is_first_delivery = False
        self._blocked.add(entry)
        self._retry_timers[entry.message_id] = asyncio.get_running_loop().call_later(seconds, self._retry_now, entry)

    def close(self) -> None:
        """Begin nothing any more."""
        self.is_closed = True
        self.has_capacity.set()
        self._wake_slots(len(self._idle_slots))

    def take_unstarted(self) -> list[tuple[Entry, float]]:
        """What has not begun, and in how many seconds it should; forgotten here, and so not renewed any more either."""
        now = asyncio.get_running_loop().time()
        left = [(entry, 0.0) for entry in self.ready_queue.clear()]
        for message_id, timer in list(self._retry_timers.items()):
            if message_id not in self.tasks:
                timer.cancel()
                del self._retry_timers[message_id]
                self._blocked.discard(self.entries[message_id])
                left.append((self.entries[message_id], max(0.0, timer.when() - now)))
        for entry, _ in left:
            del self.entries[entry.message_id]
        return left

    async def drain(self, deadline: float, force_stop: asyncio.Event) -> None:
        """Wait for what runs until the deadline (monotonic seconds) or until hurried; then cancel it."""
        hurried = asyncio.create_task(force_stop.wait())
        while self.tasks and not hurried.done() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({hurried, *self.tasks.values()}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if running := set(self.tasks.values()):
            self._metrics.abandoned += len(self.tasks)
            log.warning("drain ended with messages running; they stay pending", extra={"messages": len(self.tasks)})
            for message_id in self.tasks:
                self.entries[message_id].disposition = "drained"
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=CANCEL_TIMEOUT.total_seconds())
        self.timeouts.close()

    def dispatch(self) -> None:
        """Begin what is ready while slots are free, and say whether there is room to read more."""
        if not self.is_closed and (ready := len(self.ready_queue)):
            ready -= self._wake_slots(ready)
            for _ in range(min(ready, self._concurrency - len(self._slots))):
                task = asyncio.create_task(self._run_slot(), name="slot", context=self._base_context.copy())
                self._slots.add(task)
        self.update_capacity()

    # -- batches: several entries in one slot ------------------------------------------------------------------------

    def fill_batch(self, first: Entry, max_count: int, may_share_batch: Callable[[Entry], bool]) -> list[Entry]:
        """What else is ready begins in the slot of the first one, in its order, at most so many and up to one that may
        not. With each of them `part` is to be called. A trial of the circuit breaker runs alone."""
        joined: list[Entry] = []
        if self.is_closed or self._is_breaker_open():
            return joined
        task = self.tasks[first.message_id]
        while len(joined) < max_count and (entry := self.ready_queue.pop_if(may_share_batch)):
            self._batched_count += 1
            self.tasks[entry.message_id] = task
            self._start_attempt(entry)
            joined.append(entry)
        self.update_capacity()
        return joined

    def finish_batched(self, entry: Entry) -> None:
        """One that joined is done with; or it waits, and begins again by itself."""
        self._batched_count -= 1
        self.finish_attempt(entry)

    def _has_own_entries(self, task: asyncio.Task[None]) -> bool:
        """Whether a message that runs there is still ours."""
        return any(each is task and self.entries[id_].disposition != "lost" for id_, each in self.tasks.items())

    # -- slots -----------------------------------------------------------------------------------------------------

    async def _run_slot(self) -> None:
        """Handle one message after another."""
        task = asyncio.current_task()
        assert task
        express = self.fast_path
        try:
            while not self.is_closed:
                entry = self._next_entry()
                if entry is None:
                    await self._wait_for_work()
                    continue
                is_ordinary = entry.is_first_delivery and not self._is_breaker_open()
                left = await express(entry, task) if express and is_ordinary else entry
                if left is not None:
                    await self._run_one(left, task)
                if task.cancelling() or copy_context() != self._base_context:
                    break
        finally:
            self._slots.discard(task)
            self.dispatch()

    def _is_breaker_open(self) -> bool:
        return self._gate is not None and self._gate.is_open

    def _allows_trial(self) -> bool:
        return self._gate is not None and self._gate.allows_attempt()

    def _next_entry(self) -> Entry | None:
        """Whoever begins now. The trial of a circuit breaker is one that has not failed yet, if there is one: where
        only some messages cannot be handled, the others must not wait behind them."""
        if not self._is_breaker_open():
            return self.ready_queue.pop()
        return (self.ready_queue.pop_untried() or self.ready_queue.pop()) if self._allows_trial() else None

    async def _run_one(self, entry: Entry, task: asyncio.Task[None]) -> None:
        self.tasks[entry.message_id] = task
        self._start_attempt(entry)
        if not self.ready_queue.ready:
            self.update_capacity()
        try:
            await self._run(entry)
        except BaseException:
            self.retry_after_self_cancel(entry)
            raise
        finally:
            self.finish_attempt(entry)

    async def _wait_for_work(self) -> None:
        """Until there is something to do."""
        self.update_capacity()
        waiter = asyncio.get_running_loop().create_future()
        self._idle_slots.append(waiter)
        await waiter

    def _wake_slots(self, max_count: int) -> int:
        """Wake so many slots that rest; returns how many there were."""
        woken = self._idle_slots[:max_count]
        del self._idle_slots[:max_count]
        for waiter in woken:
            waiter.set_result(None)
        return len(woken)

    def update_capacity(self) -> None:
        if self.is_closed or (self._has_room_for_trials() if self._is_breaker_open() else self._has_room_for_new()):
            self.has_capacity.set()
        else:
            self.has_capacity.clear()

    def _has_room_for_new(self) -> bool:
        ready = len(self.ready_queue)
        has_slot = not ready and len(self.tasks) - self._batched_count < self._concurrency
        return (has_slot or ready <= self.prefetch_limit > 0) and not self._blocked.is_full

    def _has_room_for_trials(self) -> bool:
        if not self._allows_trial() or self.ready_queue.has_untried() or len(self.entries) >= MAX_TRIAL_CANDIDATES:
            return False
        return sum(entry.size_bytes() for entry in self.entries.values()) < MAX_BLOCKED_BYTES

    def _start_attempt(self, entry: Entry) -> None:
        """As a trial of the circuit breaker, if that is open."""
        if self._gate is not None and self._gate.is_open:
            entry.is_trial = self._gate.record_start()

    def retry_after_self_cancel(self, entry: Entry) -> None:
        """To be said before `ended` of one whose slot ends in the middle of it, and not because somebody here wants
        that: a handler may cancel its own task. It begins again, and that counts, so that it has an end."""
        if not self.is_closed and entry.disposition in {"", "timeout"}:
            log.warning(
                "a message has not ended as it should; it is tried again", extra={"message_id": entry.message_id}
            )
            self.schedule_retry(entry, SELF_CANCEL_RETRY_SECONDS)

    def finish_attempt(self, entry: Entry) -> None:
        del self.tasks[entry.message_id]
        if entry.is_trial and self._gate is not None:
            entry.is_trial = False
            self._gate.record_ignored(is_trial=True)
        if entry.message_id in self._retry_timers:
            self.ready_queue.release_turn(entry)
            return
        self.entries.pop(entry.message_id, None)
        if entry.is_suspect or entry.lane is not None:  # nobody stands behind any other
            self.ready_queue.complete(entry)

    def _retry_now(self, entry: Entry) -> None:
        """Its wait is over."""
        if entry.message_id in self._busy_ids or entry.message_id in self.tasks:
            timer = asyncio.get_running_loop().call_later(BUSY_RETRY_SECONDS, self._retry_now, entry)
            self._retry_timers[entry.message_id] = timer
            return
        del self._retry_timers[entry.message_id]
        self._blocked.discard(entry)
        entry.disposition = ""
        self.ready_queue.requeue(entry)
        self.dispatch()
