"""The ordinary message, which is nearly every one, handled in one function: what the other files do for it, inline.

A call costs a twentieth of what the whole message may. So here one loop takes what was just read, calls the handler and
hands in the acknowledgement, and leaves everything else to those whose affair it is: what comes again, is large, cannot
be decoded or failed. It changes nothing of the order in which entries begin, nor of what the tables say meanwhile.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from streamconsumer.errors import UndecodableEntry
from streamconsumer.processor.dead_letters.record import LEAST_WITH_MARKS
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler
from streamconsumer.processor.message import Encoding, Entry, enter, leave
from streamconsumer.processor.metrics import SHORTEST, Metrics
from streamconsumer.processor.pipeline.attempt import NOT_ITS_OWN, Attempts
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.in_flight import InFlight
from streamconsumer.processor.pipeline.settlement import Settling


class Express:
    """For handlers that take single messages, in any order, where only those have spans whose producers say so."""

    def __init__(
        self,
        handler: AsyncHandler,
        in_flight: InFlight,
        attempts: Attempts,
        settling: Settling,
        breaker: CircuitBreaker,
        *,
        acknowledge: Callable[[str], None],
        encoding: Encoding,
        who: tuple[str, str, str],
        metrics: Metrics,
    ) -> None:
        self.handler = handler
        """Who gets the next message."""
        self._in_flight, self._attempts, self._settling = in_flight, attempts, settling
        self._breaker, self._acknowledge, self._encoding = breaker, acknowledge, encoding
        self._who, self._metrics = who, metrics

    async def run(  # noqa: C901, PLR0912, PLR0915 - a call for each part would cost what it saves
        self, entry: Entry, task: asyncio.Task[None]
    ) -> Entry | None:
        """Handle ordinary entries. Returns one that is not; None if none is ready, or a context variable changed."""
        in_flight, metrics, breaker, who = self._in_flight, self._metrics, self._breaker, self._who
        entries, tasks = in_flight.entries, in_flight.tasks
        free, suspects = in_flight.ready.free, in_flight.ready.suspects
        acknowledge, counts, carriers = self._acknowledge, metrics.duration_counts, self._attempts.carriers
        is_timed, in_time, clock = bool(in_flight.overdue.timeout), self._attempts.in_time, time.perf_counter
        data: dict[Any, Any] | None
        token, began = enter([]), clock()
        try:
            while True:
                if entry.is_ascii and entry.is_fresh and len(entry.texts) < LEAST_WITH_MARKS:
                    in_turn = iter(entry.texts)
                    data = dict(zip(in_turn, in_turn))  # noqa: B905 - as in TextEntry.data
                elif (data := self._data(entry)) is None:
                    return entry
                if carriers and not carriers.isdisjoint(data):
                    return entry
                tasks[message_id := entry.message_id] = task
                if not free:
                    in_flight.tell_room()
                enter((entry, who, data))
                before, result, error = copy_context(), None, None
                try:
                    try:
                        result = await (in_time(entry, data) if is_timed else self.handler(data))
                    except NOT_ITS_OWN:
                        raise
                    except BaseException as raised:  # noqa: BLE001 - judged in `_end`
                        error = raised
                    ended = clock()
                    if (seconds := ended - began) <= SHORTEST:
                        counts[0] += 1
                        metrics.duration_sum_seconds += seconds
                    else:
                        metrics.handled(seconds)
                    began = ended
                    if error is None and not entry.fate and breaker.is_calm and not isinstance(result, Effects):
                        acknowledge(message_id)
                    else:
                        await self._end(entry, result, error)
                        began = clock()
                except BaseException:
                    in_flight.unsettled(entry)
                    raise
                finally:
                    error = None  # or its traceback would hold this frame, and this frame the error
                    if entry.fate:
                        in_flight.ended(entry)
                    else:
                        del tasks[message_id], entries[message_id]
                if copy_context() != before or task.cancelling():
                    return None
                if not free or suspects or in_flight.closed or breaker.is_open:
                    return None
                entry = free.popleft()
        finally:
            leave(token)

    def _data(self, entry: Entry) -> dict[Any, Any] | None:
        """What the handler gets, if that takes no more than decoding."""
        if not entry.is_fresh or entry.has_marks():
            return None
        try:
            return entry.data(self._encoding)
        except UndecodableEntry:
            return None

    async def _end(self, entry: Entry, result: Any, error: BaseException | None) -> None:
        if error is not None or entry.fate == "timeout":
            self._attempts.judged(entry, error)
            if entry.verdict is None and error is not None:  # cancelled: for a peer, or at the end of a drain
                raise error
            await self._settling.settle(entry)
        elif not entry.fate:  # one that returned although it was cancelled is no success
            await self._settling.succeeded(entry, result)
