"""Batch handlers: calls the user's function with a list of the messages that are ready when a slot becomes free.

A batch starts immediately, even if it has fewer messages than the maximum. Each message has its own delivery count and
outcome. If one message cannot be decoded, only this message is dead-lettered. A message that another consumer has
claimed is not acknowledged. After a `BatchFailed`, all messages that the exception does not name are acknowledged.

Three kinds of entries are handled in a batch of one: entries that may have crashed a process (suspects), trials of the
circuit breaker, and entries on their last attempt. A message is therefore never dead-lettered because another message
in its batch failed.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from streamconsumer.errors import EffectsRejected
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.entry_state import LOST, RUNNING, SETTLING
from streamconsumer.processor.error_logging import leaves
from streamconsumer.processor.forked_children import end_if_forked
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler, HandlerThreadPool, finish_result
from streamconsumer.processor.handler.outcomes import BatchFailed
from streamconsumer.processor.message import NEW, ConsumerId, Entry, Message, reset_current, set_current
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.attempt import handler_timeout_error, was_cancelled
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.preparation import Preparation
from streamconsumer.processor.pipeline.retry_policy import process_exit
from streamconsumer.processor.pipeline.settlement import Settler, is_deferred
from streamconsumer.processor.telemetry import MessageTracing


class BatchRunner:
    """Runs batches of at most `max_count` messages."""

    def __init__(
        self,
        handler: Callable[[], AsyncHandler],
        in_flight: InFlightTable,
        preparation: Preparation,
        settler: Settler,
        policy: Delivery,
        *,
        max_count: int,
        thread_pool: HandlerThreadPool,
        consumer_id: ConsumerId,
        telemetry: MessageTracing | None,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._handler, self._policy, self._clock = handler, policy, clock
        self._in_flight, self._settler, self._metrics = in_flight, settler, metrics
        self._preparation, self._thread_pool = preparation, thread_pool
        self._max_count, self._consumer_id, self._telemetry = max_count, consumer_id, telemetry

    async def run(self, first: Entry) -> None:
        """Handle an entry together with other ready entries. An error that this method raises ends the worker slot."""
        can_share = self._may_share_batch(first)
        message = await self._prepare(first)
        if message is None:
            return
        max_others = self._max_count - 1 if can_share else 0
        others = dict.fromkeys(self._in_flight.fill_batch(first, max_others, self._may_share_batch))
        batch = {first: message}
        try:
            for entry in list(others):
                if (message := await self._prepare(entry)) is not None:
                    batch[entry] = message
                else:
                    self._leave_batch(entry, others)
                    self._in_flight.dispatch()
            await self._handle_unless_closed(batch)
            # A settled entry must leave the in-flight table immediately, because a lease renewal would make the entry
            # pending again. The first entry leaves the table only after this method returns, so it is settled last.
            failed = [entry for entry in batch if entry.state is SETTLING]
            await self._settler.apply_decisions(failed)
            for entry in failed:
                self._leave_batch(entry, others)
            for entry in reversed(batch):
                if entry not in failed:
                    await self._settle_success(entry)
                    self._leave_batch(entry, others)
        except BaseException as error:
            self._in_flight.on_slot_error(others, error)
            raise
        finally:
            for entry in list(others):
                self._leave_batch(entry, others)

    def _leave_batch(self, entry: Entry, others: dict[Entry, None]) -> None:
        if entry in others:
            del others[entry]
            self._in_flight.finish_batched(entry)

    def _may_share_batch(self, entry: Entry) -> bool:
        is_last_attempt = entry.origin is not NEW and entry.deliveries + 1 >= self._policy.max_deliveries
        return not (entry.is_suspect or is_last_attempt)

    async def _prepare(self, entry: Entry) -> Message | None:
        """Return the message for the handler. Returns None if the entry is already settled or claimed by another
        consumer."""
        data = await self._preparation.data_for_handler(entry)
        if data is None or entry.state is not RUNNING:
            return None
        return Message(entry.message_id, *self._consumer_id, entry.deliveries, data)

    async def _handle_unless_closed(self, batch: Mapping[Entry, Message]) -> None:
        """Handle the messages whose entries this consumer still owns. If the processor was stopped during the
        preparation, keep them, so that the drain releases them."""
        if self._thread_pool.is_exhausted:
            await self._thread_pool.wait_for_thread()
        entries = [entry for entry in batch if entry.state is RUNNING]
        if self._in_flight.is_closed:
            for entry in entries:
                self._preparation.keep_unstarted(entry)
        elif entries:
            await self._handle(entries, [batch[entry] for entry in entries])

    async def _handle(self, entries: Sequence[Entry], messages: list[Message]) -> None:
        """Call the handler. Raises only cancellations and process exits. After any other error, each failed entry has a
        decision that defines how it is settled."""
        token, started = set_current(messages), self._clock()
        try:
            await self._run_traced(entries, messages)
        except BaseException as error:
            if process_exit(error) or (isinstance(error, asyncio.CancelledError) and was_cancelled()):
                raise  # `_run_attempt` has already decided on any other error and logged it.
        finally:
            self._metrics.record_duration(self._clock() - started)
            reset_current(token)

    async def _run_traced(self, entries: Sequence[Entry], messages: list[Message]) -> None:
        batch = [message.data for message in messages]
        if self._telemetry is None:
            await self._run_attempt(entries, batch)
            return
        attempt = self._telemetry.start_batch(entries, messages)
        try:
            await self._run_attempt(entries, batch)
        except BaseException as error:
            self._telemetry.end_batch(attempt, entries, error)
            raise
        self._telemetry.end_batch(attempt, entries)

    async def _run_attempt(self, entries: Sequence[Entry], batch: list[Mapping[Any, Any]]) -> None:
        """Call the handler, and decide for each failed message between a retry and a dead letter.

        If the whole batch failed, raises an error, which the span records. If the errors of all messages have the same
        type, this is the error of the first message. Otherwise, it is the BatchFailed."""
        failure = await self._call_handler(entries, batch)
        if failure is None:
            return
        if (exit_error := process_exit(failure)) is not None:
            raise exit_error
        failures = failure.failures if isinstance(failure, BatchFailed) else dict.fromkeys(range(len(batch)), failure)
        is_whole_batch = len(failures) == len(batch)
        failed = [(entries[index], error) for index, error in failures.items() if entries[index].state is not LOST]
        self._settler.on_batch_failure(failed, is_whole_batch=is_whole_batch)
        if is_whole_batch and not all(is_deferred(entry) for entry in entries):
            raise next(iter(failures.values())) if len(set(map(type, failures.values()))) == 1 else failure

    async def _call_handler(self, entries: Sequence[Entry], batch: list[Mapping[Any, Any]]) -> BaseException | None:
        """Call the handler and return its error, or None after success. Raises CancelledError if the current task is
        cancelled."""
        task, timeout, timer = asyncio.current_task(), self._policy.timeout, None
        assert task
        if timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout.total_seconds(), _cancel_timed_out, task, entries)
        failure: BaseException | None = None
        pid = os.getpid()
        try:
            _reject_effects(await finish_result(await self._handler()(batch)))
        except BaseException as error:  # noqa: BLE001 - the caller decides
            end_if_forked(pid, error)
            failure = _batch_failure(error, len(batch))
        finally:
            if timer is not None:
                timer.cancel()
        end_if_forked(pid)
        if any(entry.state is SETTLING for entry in entries):
            return handler_timeout_error(timeout)
        if isinstance(failure, asyncio.CancelledError) and was_cancelled():
            raise failure
        return failure

    async def _settle_success(self, entry: Entry) -> None:
        if entry.state is RUNNING:
            await self._settler.on_success(entry, None)


def _cancel_timed_out(task: asyncio.Task[None], entries: Iterable[Entry]) -> None:
    """Mark all entries of the batch as timed out, and cancel the task that handles the batch."""
    overdue = [entry for entry in entries if entry.state is RUNNING]
    for entry in overdue:
        entry.apply("expire")
    if overdue:
        task.cancel()


def _batch_failure(error: BaseException, count: int) -> BaseException | None:
    """Return the error of a batch. If the handler raised a BatchFailed, alone or in an exception group, returns the
    BatchFailed, otherwise the error itself. Several BatchFailed are merged. Returns None if no message has failed."""
    failures: dict[int, BaseException] = {}
    for each in leaves(error):
        if not isinstance(each, BatchFailed):
            return error
        invalid = _validate_failures(each, count)
        if invalid is not None and invalid is not each:
            return invalid
        for index, failure in each.failures.items():
            known = failures.get(index)
            failures[index] = BaseExceptionGroup("several errors", [known, failure]) if known else failure
    return BatchFailed(failures) if failures else None


def _validate_failures(failed: BatchFailed, count: int) -> BaseException | None:
    """Check that each failure in a `BatchFailed` has a valid index and an exception.

    Returns the `BatchFailed` if all failures are valid, None if there are no failures, and an error if a failure is
    invalid."""
    for index, error in failed.failures.items():
        if type(index) is not int or not 0 <= index < count:
            invalid: Exception = IndexError(f"BatchFailed names index {index!r}; the list had indexes 0 to {count - 1}")
        elif not isinstance(error, BaseException):
            invalid = TypeError(
                f"BatchFailed has {error!r:.80} at index {index}; "
                "expected the exception that the message at this index failed with"
            )
        else:
            continue
        invalid.__cause__ = failed
        return invalid
    return failed if failed.failures else None


def _reject_effects(result: Any) -> None:
    """Raise EffectsRejected if a batch handler returned Effects."""
    results = result if isinstance(result, list | tuple) else [result]
    if any(isinstance(each, Effects) for each in results):
        raise EffectsRejected(
            "a batch handler must not return Effects, because Effects need the acknowledgement of a single message; "
            "no effect was applied. Return None and write to Redis yourself, or set handler.batch to false"
        )
