"""The in-flight table: admits each entry once, and runs handlers in worker slots.

An entry is in the table from its admission until this process has settled or released the entry, or until another
consumer has claimed the entry. An entry in the table is never admitted again, so two handlers in one process never
handle the same entry.

A worker slot is an asyncio task that handles one message after another. A separate task for each message would take as
much time as all other steps together (1.6 of 3 microseconds). If a handler changes a context variable, its slot ends
and a new slot starts, so that the change does not affect the next message.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextvars import copy_context
from datetime import timedelta
from typing import Any

from streamconsumer.model.processor_settings import Breaker
from streamconsumer.processor.entry_state import LOST, RUNNING, SETTLING, WAITING
from streamconsumer.processor.message import NEW, Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.capacity import (
    MAX_START_INTERVAL_SECONDS,
    Load,
    dead_count,
    due_count,
    has_room_for_trials,
    is_slot_reserved,
    read_count,
)
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.held_memory import HeldMemory
from streamconsumer.processor.pipeline.ready_queue import BlockedEntries, ReadyQueue
from streamconsumer.processor.pipeline.retry_policy import process_exit
from streamconsumer.processor.pipeline.timeouts import HandlerTimeouts

log = logging.getLogger(__name__)

BATCH_RETRY_SECONDS, SELF_CANCEL_RETRY_SECONDS = 0.1, 1.0
"""BATCH_RETRY_SECONDS is the additional delay of a retry if other entries of the same batch are still running.
SELF_CANCEL_RETRY_SECONDS is the delay of the retry after a handler has cancelled its own task."""


class InFlightTable:
    """Entries that wait for a slot, are being handled, or wait for a retry. `run` is called to handle one entry."""

    def __init__(
        self,
        run: Callable[[Entry], Coroutine[Any, Any, None]],
        *,
        concurrency: int,
        metrics: Metrics,
        busy_ids: Collection[str] = (),
        ordering_key: str | None = None,
        can_park: bool = False,
        timeout: timedelta | None = None,
        gate: CircuitBreaker | None = None,
        max_held_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._concurrency, self._metrics, self._clock = run, concurrency, metrics, clock
        self._started_at = -math.inf
        self._gate = gate or CircuitBreaker(Breaker(failures=0), clock)
        self.busy_ids = busy_ids
        """Ids of messages whose handler may still be running although their task was cancelled."""
        self.entries: dict[str, Entry] = {}
        self._blocked = BlockedEntries(can_park=can_park)
        self._held_memory = HeldMemory(max_held_bytes)
        self.ready_queue = ReadyQueue(ordering_key, self._blocked)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._retry_timers: dict[str, asyncio.TimerHandle] = {}
        self.timeouts = HandlerTimeouts(timeout)
        self._slots: set[asyncio.Task[None]] = set()
        self._idle_slots: list[asyncio.Future[None]] = []
        """Futures on which the idle slots wait."""
        self._batched_count = 0
        """Number of running entries that share a slot with the first entry of their batch."""
        self.is_closed = False
        self.owner: asyncio.Task[None] | None = None
        """Task of the processor. If this task is cancelled, no further entry starts."""
        self.trial: Entry | None = None
        """Entry that is running as the trial of the open circuit breaker. None if no trial is running."""
        self._base_context = copy_context()
        """Context variables with which every message starts."""
        self.fast_path: Callable[[Entry, asyncio.Task[None]], Coroutine[Any, Any, Entry | None]] | None = None
        """Handles ordinary entries, beginning with this one. Returns the first entry that is not ordinary."""
        self.prefetch_limit = 0
        """Number of new entries that may wait for a slot while the processor reads, see `capacity`."""
        self.has_capacity, self.capacity_changed = asyncio.Event(), asyncio.Event()
        """`has_capacity` is set while the processor may read more entries, and after `close`. `capacity_changed` is set
        when the processor may be able to claim more entries."""
        self.has_capacity.set()
        self.reserved: frozenset[str] = frozenset()
        """Kinds of entries that can be claimed as soon as there is room, see `reserve`."""
        self.on_entry_removed: Callable[[str], object] = lambda _: None
        """Function that `finish_attempt` calls with the id of each entry that it removes from the table."""
        self.on_busy: Callable[[], object] = lambda: None
        """Function that `admit` calls when it adds entries to an empty table."""
        self.on_full: Callable[[], object] = lambda: None
        """Function that is called when the processor must not read more entries. A read may be waiting."""
        metrics.count_in_flight = self.tasks.__len__

    @property
    def queued(self) -> int:
        """Number of entries that wait for a slot, for an entry with the same ordering key, or for a retry."""
        return len(self.entries) - len(self.tasks)

    @property
    def running(self) -> int:
        """Number of entries that are being handled."""
        return len(self.tasks)

    def ids(self) -> list[str]:
        """Return the ids of all entries in the table, oldest first. Safe to call from another thread."""
        return list(self.entries)

    def admit(self, entries: Collection[Entry]) -> None:
        """Add the entries that are not yet in the table, and start an entry in each free slot."""
        new = {entry.message_id: entry for entry in entries}
        if not self.entries.keys().isdisjoint(new):
            new = {id_: entry for id_, entry in new.items() if id_ not in self.entries}
        first = next(iter(new.values()), None)  # all entries have the same origin and are from the same reply
        busy = [new[id_] for id_ in new.keys() & self.busy_ids] if self.busy_ids else ()
        for entry in (each for each in busy if each.origin is NEW):  # the group was restored at an earlier position
            entry.mark_attempted()
        if new and not self.entries:
            self.on_busy()
        self.entries.update(new)
        if first is not None:
            self.ready_queue.put_all(new.values(), are_new=first.origin is NEW and not busy)
            if first.in_large_reply:
                self._held_memory.add(new.values())
        self._metrics.delivered += len(new)
        self.dispatch()

    def load(self, entry: Entry, fields: Sequence[bytes]) -> None:
        """Set the fields of a parked entry, which were read again."""
        entry.load(fields)
        self._held_memory.add([entry])
        self._blocked.update(entry)

    def drop_claimed(self, message_id: str) -> bool:
        """Drop an entry that another consumer has claimed. Cancels the handler of the entry, unless this consumer still
        owns other entries of the same batch. Returns False if the entry is not in the table or was dropped before."""
        entry = self.entries.get(message_id)
        if entry is None or entry.state is LOST:
            return False
        if timer := self._retry_timers.pop(message_id, None):
            timer.cancel()
            self._blocked.discard(entry)
        is_waiting = entry.state is WAITING
        entry.apply("lose")
        if task := self.tasks.get(message_id):
            batch = [self.entries[id_] for id_, running in self.tasks.items() if running is task]
            if all(each.state is LOST for each in batch):
                task.cancel()
            return True
        del self.entries[message_id]
        if is_waiting:
            self.ready_queue.complete(entry)
        else:
            self.ready_queue.remove(entry)
        self.dispatch()
        return True

    def drop_all(self) -> None:
        """Drop all entries, because the stream was deleted and created again."""
        for message_id in self.ids():
            self.drop_claimed(message_id)

    def schedule_retry(self, entry: Entry, seconds: float) -> None:
        """Retry a running entry after `seconds`. Does nothing if another consumer has claimed the entry."""
        if entry.state is LOST:
            return
        entry.apply("wait")
        entry.is_first_delivery = False
        self._blocked.add(entry)
        self._retry_timers[entry.message_id] = asyncio.get_running_loop().call_later(seconds, self._retry_now, entry)

    def close(self) -> None:
        """Prevent further entries from starting."""
        self.is_closed = True
        self.has_capacity.set()
        self._wake_slots(len(self._idle_slots))

    def take_unstarted(self) -> list[tuple[Entry, float]]:
        """Remove all entries that are not running, so that their leases are no longer renewed. Returns each entry with
        the seconds until its retry, or with 0 if it does not wait for a retry."""
        now = asyncio.get_running_loop().time()
        unstarted = [(entry, 0.0) for entry in self.ready_queue.clear()]
        for message_id, timer in list(self._retry_timers.items()):
            if message_id not in self.tasks:
                timer.cancel()
                del self._retry_timers[message_id]
                self._blocked.discard(self.entries[message_id])
                unstarted.append((self.entries[message_id], max(0.0, timer.when() - now)))
        for entry, _ in unstarted:
            entry.apply("release")
            del self.entries[entry.message_id]
        return unstarted

    def dispatch(self) -> None:
        """Start ready entries in the free slots, and update `has_capacity`."""
        if not self._is_ending() and (ready := len(self.ready_queue)):
            ready -= self._wake_slots(ready)
            for _ in range(min(ready, self._concurrency - len(self._slots))):
                task = asyncio.create_task(self._run_slot(), name="slot", context=self._base_context.copy())
                self._slots.add(task)
        self.update_capacity()

    # -- batches: several entries in one slot ------------------------------------------------------------------------

    def fill_batch(self, first: Entry, max_count: int, may_share_batch: Callable[[Entry], bool]) -> list[Entry]:
        """Start at most `max_count` other ready entries in the slot of the first entry. Returns the started entries in
        order.

        Stops at the first entry for which `may_share_batch` returns False. The caller calls `finish_batched` for each
        returned entry. Returns no entries while the circuit breaker is open."""
        joined: list[Entry] = []
        if self.is_closed or self._gate.is_open:
            return joined
        task = self.tasks[first.message_id]
        while len(joined) < max_count and (entry := self.ready_queue.pop_if(may_share_batch)):
            self._batched_count += 1
            self._start(entry, task)
            joined.append(entry)
        self.update_capacity()
        return joined

    def finish_batched(self, entry: Entry) -> None:
        """End the attempt of an entry that `fill_batch` returned. Keeps the entry if a retry is scheduled."""
        self._batched_count -= 1
        self.finish_attempt(entry)

    # -- slots -----------------------------------------------------------------------------------------------------

    async def _run_slot(self) -> None:
        """Handle one message after another. Ends if a handler changes a context variable or the task is cancelled."""
        task = asyncio.current_task()
        assert task
        fast_path = self.fast_path
        try:
            while not self.is_closed:
                entry = self._next_entry()
                if entry is None:
                    await self._wait_for_work()
                    continue
                is_ordinary = entry.is_first_delivery and not self._gate.is_open
                unhandled = await fast_path(entry, task) if fast_path and is_ordinary else entry
                if unhandled is not None:
                    await self._run_one(unhandled, task)
                if task.cancelling() or copy_context() != self._base_context:
                    break
        finally:
            self._slots.discard(task)
            self.dispatch()

    def _next_entry(self) -> Entry | None:
        """Remove and return the entry that starts next. Returns None if no entry may start.

        If the circuit breaker is open, prefers an entry that has not failed yet. If only some messages fail, a trial
        with an entry that has not failed can succeed and close the breaker."""
        if not self._gate.is_open:
            return None if self.reserved and self._is_slot_reserved() else self.ready_queue.pop()
        return (self.ready_queue.pop_untried() or self.ready_queue.pop()) if self._gate.allows_attempt() else None

    def _is_slot_reserved(self) -> bool:
        """Return whether a free slot is reserved for an entry that has not been claimed yet."""
        is_due_turn = self.ready_queue.is_due_turn
        return not self._is_full() and is_slot_reserved(self._load(), self.reserved, is_due_turn=is_due_turn)

    def _is_full(self) -> bool:
        return self._blocked.is_full or self._held_memory.is_full(self.entries)

    def reserve(self, kinds: frozenset[str]) -> None:
        """Reserve free slots for entries that can be claimed: for `dead` entries always, for `due` in turns."""
        if kinds != self.reserved:
            self.reserved = kinds
            self.dispatch()

    async def _run_one(self, entry: Entry, task: asyncio.Task[None]) -> None:
        self._start(entry, task)
        self.update_capacity()
        try:
            await self._run(entry)
        except BaseException as error:
            self.on_slot_error([entry], error)
            raise
        finally:
            self.finish_attempt(entry)

    def _start(self, entry: Entry, task: asyncio.Task[None]) -> None:
        """Record that the task handles the entry. If the circuit breaker is open, the entry becomes the trial."""
        self.tasks[entry.message_id], self._started_at = task, self._clock()
        entry.apply("start")
        if self._gate.is_open and self._gate.record_start():
            self.trial = entry

    async def _wait_for_work(self) -> None:
        """Wait until `dispatch` or `close` wakes this slot."""
        self.update_capacity()
        waiter = asyncio.get_running_loop().create_future()
        self._idle_slots.append(waiter)
        await waiter

    def _wake_slots(self, max_count: int) -> int:
        """Wake at most `max_count` idle slots. Returns the number of slots that this call woke."""
        woken = 0
        while self._idle_slots and woken < max_count:
            waiter = self._idle_slots.pop(0)
            if not waiter.done():  # the future is done if a handler has cancelled this slot
                waiter.set_result(None)
                woken += 1
        return woken

    def update_capacity(self) -> None:
        """Set `has_capacity` if the processor may read more entries, otherwise clear the event."""
        self.capacity_changed.set()
        if self.is_closed or self.read_count(1):
            self.has_capacity.set()
        elif self.has_capacity.is_set():
            self.has_capacity.clear()
            self.on_full()

    def read_count(self, batch_count: int) -> int:
        """Return the number of entries that the next read may return."""
        if self._held_memory.is_full(self.entries):
            return 0
        if self._gate.is_open:
            may_try = self._gate.allows_attempt() and not self.ready_queue.ready
            return batch_count if may_try and has_room_for_trials(self.entries.values()) else 0
        has_due = "due" in self.reserved and self._clock() - self._started_at < MAX_START_INTERVAL_SECONDS
        return 0 if self._blocked.is_full else read_count(self._load(), batch_count, has_due=has_due)

    def claim_count(self, batch_count: int, *, is_due: bool) -> int:
        """Return the number of due entries, or of entries of dead consumers, that may be claimed."""
        if self.is_closed or self._is_full():
            return 0
        if self._gate.is_open:
            return self.read_count(batch_count)
        return (due_count if is_due else dead_count)(self._load(), batch_count)

    def _load(self) -> Load:
        running = len(self.tasks) - self._batched_count
        return Load(*self.ready_queue.counts(), running, self._concurrency, self.prefetch_limit)

    def _is_ending(self) -> bool:
        """Return whether no entry may start. Closes the table if the task of the processor is cancelled."""
        if not self.is_closed and self.owner is not None and self.owner.cancelling():
            self.close()
        return self.is_closed

    def on_slot_error(self, entries: Collection[Entry], error: BaseException) -> None:
        """Process an error that ends a slot. Must be called before `finish_attempt`.

        If the process ends, no further entry starts. Otherwise, a handler has cancelled its own task. The entries of
        this handler are retried, and their attempts count."""
        if process_exit(error):
            self.close()
        if self._is_ending():
            return
        for entry in entries:
            if entry.state is RUNNING or (entry.state is SETTLING and entry.decision is not None):
                log.warning("handler cancelled its own task; retrying", extra={"message_id": entry.message_id})
                entry.mark_attempted()
                self.schedule_retry(entry, SELF_CANCEL_RETRY_SECONDS)

    def ignore_trial(self, entry: Entry) -> None:
        """If the entry is the trial, let the circuit breaker try another entry."""
        if entry is self.trial:
            self.trial = None
            self._gate.record_ignored(is_trial=True)

    def finish_attempt(self, entry: Entry) -> None:
        """End the attempt of an entry. Keeps the entry in the table only if a retry is scheduled."""
        del self.tasks[entry.message_id]
        self.ignore_trial(entry)
        if entry.state is WAITING:
            self.ready_queue.release_turn(entry)
            return
        entry.apply("finish")
        self.entries.pop(entry.message_id, None)
        self.on_entry_removed(entry.message_id)
        if entry.is_suspect or entry.lane is not None:  # no other entry blocks the start of further entries
            self.ready_queue.complete(entry)

    def _retry_now(self, entry: Entry) -> None:
        """Queue an entry whose retry delay has ended. While its batch is still running, delay the retry again."""
        if entry.message_id in self.tasks:
            timer = asyncio.get_running_loop().call_later(BATCH_RETRY_SECONDS, self._retry_now, entry)
            self._retry_timers[entry.message_id] = timer
            return
        del self._retry_timers[entry.message_id]
        self._blocked.discard(entry)
        entry.apply("requeue")
        self.ready_queue.requeue(entry)
        self.dispatch()
