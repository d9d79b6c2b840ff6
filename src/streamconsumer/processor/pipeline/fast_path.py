"""Fast path: one function that handles ordinary messages, with the steps of other modules inlined.

Nearly all messages are ordinary. One function call takes 5 % of the time budget of a message. A single loop therefore
takes an entry that was just read, calls the handler and queues the acknowledgement. Other components handle entries
that are redelivered, large or undecodable, and settle failed entries. The fast path changes neither the order in which
entries start, nor the state of the in-flight table that other components use.
"""

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from streamconsumer.errors import UndecodableEntry
from streamconsumer.processor.consumer import RedisConsumer
from streamconsumer.processor.dead_letters.record import MIN_LENGTH_WITH_MARKS, REPLAYED_FOR
from streamconsumer.processor.entry_state import RUNNING, SETTLING
from streamconsumer.processor.forked_children import end_if_forked
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler, HandlerThreadPool, finish_result
from streamconsumer.processor.message import AsciiEntry, Entry, reset_current, set_current
from streamconsumer.processor.metrics import FIRST_BUCKET_SECONDS, Metrics
from streamconsumer.processor.pipeline.attempt import AttemptRunner
from streamconsumer.processor.pipeline.circuit_breaker import CircuitBreaker
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.retry_policy import process_exit
from streamconsumer.processor.pipeline.settlement import Settler


class FastPath:
    """Handles ordinary messages. The fast path is not used if the handler takes batches, if an ordering key is set, or
    if the tracing configuration requires a span for each message."""

    def __init__(  # noqa: PLR0917 - one per collaborator
        self,
        handler: AsyncHandler,
        in_flight: InFlightTable,
        attempt_runner: AttemptRunner,
        settler: Settler,
        breaker: CircuitBreaker,
        consumer: RedisConsumer,
        thread_pool: HandlerThreadPool,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.handler = handler
        """User's handler. `set_message_callback` may replace this attribute at any time."""
        self._in_flight, self._attempt_runner, self._settler = in_flight, attempt_runner, settler
        self._breaker, self._consumer = breaker, consumer
        self._threads, self._hung = thread_pool, thread_pool.abandoned  # without hung calls, a thread is free
        self._encoding = consumer.encoding
        self._metrics, self._clock = metrics, clock

    async def run(self, entry: Entry, task: asyncio.Task[None]) -> Entry | None:  # noqa: C901, PLR0912, PLR0915 - inlined
        """Handle ordinary entries. Returns the first other entry, or None if the loop must not take another entry."""
        in_flight, metrics, breaker, consumer = self._in_flight, self._metrics, self._breaker, self._consumer
        entries, tasks, trace_fields = in_flight.entries, in_flight.tasks, self._attempt_runner.trace_fields
        queue, consumer_id, running = in_flight.ready_queue, consumer.consumer_id, RUNNING
        ready, due, claimed, suspects, hung = queue.ready, queue.due, queue.claimed, queue.suspects, self._hung
        ack, duration_counts, clock = consumer.ack_buffer.add, metrics.duration_counts, self._clock
        has_timeout, call_with_timeout = bool(in_flight.timeouts.timeout), self._attempt_runner.call_with_timeout
        data: dict[Any, Any] | None
        token, started, pid = set_current([]), clock(), os.getpid()
        try:
            while True:
                is_ascii = type(entry) is AsciiEntry and entry.is_first_delivery
                if is_ascii and (len(texts := entry.texts) < MIN_LENGTH_WITH_MARKS or texts[-2] != REPLAYED_FOR):
                    data = dict(zip(in_turn := iter(texts), in_turn))  # noqa: B905 - as in TextEntry.data
                elif (data := self._decode_if_ordinary(entry)) is None:
                    return entry
                may_start = started <= consumer.leases_valid_until and not (hung and self._threads.is_exhausted)
                if not may_start or (trace_fields and not trace_fields.isdisjoint(data)):
                    return entry
                tasks[message_id := entry.message_id], entry.state = task, running
                if not ready:
                    in_flight.update_capacity()
                set_current((entry, consumer_id, data))
                context, result, error, is_plain = copy_context(), None, None, False
                try:
                    try:
                        result = await (call_with_timeout(entry, data) if has_timeout else self.handler(data))
                        result = None if result is None else await finish_result(result)
                    except BaseException as raised:  # noqa: BLE001 - decided in `_settle_slow`
                        error = raised
                    seconds, started = (now := clock()) - started, now
                    if seconds <= FIRST_BUCKET_SECONDS:
                        duration_counts[0] += 1
                        metrics.duration_sum_seconds += seconds
                    else:
                        metrics.record_duration(seconds)
                    is_plain = error is None and entry.state is running and not isinstance(result, Effects)
                    if is_plain := is_plain and breaker.has_no_recent_failure:
                        ack(message_id)
                    else:
                        await self._settle_slow(entry, result, error, pid)
                        started = clock()
                except BaseException as raised:
                    in_flight.on_slot_error([entry], raised)
                    raise
                finally:
                    error = None  # breaks the reference cycle between the error's traceback and this frame
                    if is_plain:
                        del tasks[message_id], entries[message_id]
                    else:
                        in_flight.finish_attempt(entry)
                if copy_context() != context or task.cancelling() or in_flight.is_closed or breaker.is_open:
                    return None
                if not ready or due or claimed or suspects or in_flight.reserved:
                    return None
                entry = ready.popleft()
        finally:
            end_if_forked(pid)
            reset_current(token)

    def _decode_if_ordinary(self, entry: Entry) -> dict[Any, Any] | None:
        """Return the decoded data of an ordinary entry. Returns None if the entry is not ordinary."""
        if not entry.is_first_delivery or entry.is_replay:
            return None
        try:
            return entry.data(self._encoding)
        except UndecodableEntry:
            return None

    async def _settle_slow(self, entry: Entry, result: Any, error: BaseException | None, pid: int) -> None:
        end_if_forked(pid, error)
        if error is not None or entry.state is SETTLING:  # SETTLING: the timeout has expired
            failure = self._attempt_runner.record_failure(entry, error)
            if entry.state is RUNNING or process_exit(failure):  # cancelled by the handler, or the process ends
                raise failure
            if entry.state is SETTLING:
                await self._settler.apply_decision(entry)
        elif entry.state is RUNNING:  # A cancelled handler that returns has not succeeded.
            await self._settler.on_success(entry, result)
