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
from streamconsumer.processor.dead_letters.record import MIN_LENGTH_WITH_MARKS
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler
from streamconsumer.processor.message import ConsumerId, Encoding, Entry, reset_current, set_current
from streamconsumer.processor.metrics import FIRST_BUCKET_SECONDS, Metrics
from streamconsumer.processor.pipeline.attempt import PROCESS_EXIT_ERRORS, AttemptRunner
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.settlement import Settler


class FastPath:
    """For handlers that take single messages, in any order, where only those have spans whose producers say so."""

    def __init__(
        self,
        handler: AsyncHandler,
        in_flight: InFlightTable,
        attempt_runner: AttemptRunner,
        settler: Settler,
        breaker: CircuitBreaker,
        *,
        ack: Callable[[str], None],
        encoding: Encoding,
        consumer_id: ConsumerId,
        metrics: Metrics,
    ) -> None:
        self.handler = handler
        """Who gets the next message."""
        self._in_flight, self._attempt_runner, self._settler = in_flight, attempt_runner, settler
        self._breaker, self._ack, self._encoding = breaker, ack, encoding
        self._consumer_id, self._metrics = consumer_id, metrics

    async def run(  # noqa: C901, PLR0912, PLR0915 - a call for each part would cost what it saves
        self, entry: Entry, task: asyncio.Task[None]
    ) -> Entry | None:
        """Handle ordinary entries. Returns one that is not; None if none is ready, or a context variable changed."""
        in_flight, metrics, breaker, consumer_id = self._in_flight, self._metrics, self._breaker, self._consumer_id
        entries, tasks = in_flight.entries, in_flight.tasks
        free, suspects = in_flight.ready_queue.ready, in_flight.ready_queue.suspects
        acknowledge, counts, carriers = self._ack, metrics.duration_counts, self._attempt_runner.trace_fields
        is_timed, in_time, clock = (
            bool(in_flight.timeouts.timeout),
            self._attempt_runner.call_with_timeout,
            time.perf_counter,
        )
        data: dict[Any, Any] | None
        token, began = set_current([]), clock()
        try:
            while True:
                if entry.is_ascii and entry.is_first_delivery and len(entry.texts) < MIN_LENGTH_WITH_MARKS:
                    in_turn = iter(entry.texts)
                    data = dict(zip(in_turn, in_turn))  # noqa: B905 - as in TextEntry.data
                elif (data := self._decode_if_ordinary(entry)) is None:
                    return entry
                if carriers and not carriers.isdisjoint(data):
                    return entry
                tasks[message_id := entry.message_id] = task
                if not free:
                    in_flight.update_capacity()
                set_current((entry, consumer_id, data))
                before, result, error = copy_context(), None, None
                try:
                    try:
                        result = await (in_time(entry, data) if is_timed else self.handler(data))
                    except PROCESS_EXIT_ERRORS:
                        raise
                    except BaseException as raised:  # noqa: BLE001 - judged in `_end`
                        error = raised
                    ended = clock()
                    if (seconds := ended - began) <= FIRST_BUCKET_SECONDS:
                        counts[0] += 1
                        metrics.duration_sum_seconds += seconds
                    else:
                        metrics.record_duration(seconds)
                    began = ended
                    if (
                        error is None
                        and not entry.disposition
                        and breaker.has_no_recent_failure
                        and not isinstance(result, Effects)
                    ):
                        acknowledge(message_id)
                    else:
                        await self._settle_slow(entry, result, error)
                        began = clock()
                except BaseException:
                    in_flight.retry_after_self_cancel(entry)
                    raise
                finally:
                    error = None  # or its traceback would hold this frame, and this frame the error
                    if entry.disposition:
                        in_flight.finish_attempt(entry)
                    else:
                        del tasks[message_id], entries[message_id]
                if copy_context() != before or task.cancelling():
                    return None
                if not free or suspects or in_flight.is_closed or breaker.is_open:
                    return None
                entry = free.popleft()
        finally:
            reset_current(token)

    def _decode_if_ordinary(self, entry: Entry) -> dict[Any, Any] | None:
        """What the handler gets, if that takes no more than decoding."""
        if not entry.is_first_delivery or entry.has_replay_marks():
            return None
        try:
            return entry.data(self._encoding)
        except UndecodableEntry:
            return None

    async def _settle_slow(self, entry: Entry, result: Any, error: BaseException | None) -> None:
        if error is not None or entry.disposition == "timeout":
            self._attempt_runner.record_failure(entry, error)
            if entry.decision is None and error is not None:  # cancelled: for a peer, or at the end of a drain
                raise error
            await self._settler.apply_decision(entry)
        elif not entry.disposition:  # one that returned although it was cancelled is no success
            await self._settler.on_success(entry, result)
