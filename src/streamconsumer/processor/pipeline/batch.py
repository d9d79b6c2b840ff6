"""Batch handlers: one call of the user's function takes a list, whatever is ready when a slot is free.

A batch never waits to fill up. Each of its messages keeps its own deliveries and its own end: what is bad is buried
alone, what a peer takes over is not acknowledged, and what a `BatchFailed` does not name is. Alone, in a batch of one,
begin those for whom company would be unjust or unsafe: suspects, trials of the circuit breaker, and whoever has one
attempt left, so that nothing is buried for what its neighbour did.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from streamconsumer.errors import EffectsRejected
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler
from streamconsumer.processor.handler.outcomes import BatchFailed
from streamconsumer.processor.message import ConsumerId, Entry, Message, reset_current, set_current
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.attempt import PROCESS_EXIT_ERRORS, handler_timeout_error, was_cancelled
from streamconsumer.processor.pipeline.in_flight import InFlightTable
from streamconsumer.processor.pipeline.settlement import Settler
from streamconsumer.processor.telemetry import MessageTracing


class BatchRunner:
    """Runs batches of at most `most` messages. One for each start of a processor."""

    def __init__(
        self,
        handler: Callable[[], AsyncHandler],
        in_flight: InFlightTable,
        settler: Settler,
        policy: Delivery,
        *,
        max_count: int,
        consumer_id: ConsumerId,
        telemetry: MessageTracing | None,
        metrics: Metrics,
    ) -> None:
        self._handler, self._policy = handler, policy
        self._in_flight, self._settler, self._metrics = in_flight, settler, metrics
        self._max_count, self._consumer_id, self._telemetry = max_count, consumer_id, telemetry

    async def run(self, first: Entry) -> None:
        """Handle an entry with what else is ready, and raise nothing but what ends its slot."""
        in_company = self._may_share_batch(first)
        message = await self._prepare(first)
        if message is None:
            return
        most = self._max_count - 1 if in_company else 0
        others = dict.fromkeys(self._in_flight.fill_batch(first, most, self._may_share_batch))
        batch = {first: message}
        try:
            for entry in list(others):
                if (message := await self._prepare(entry)) is not None:
                    batch[entry] = message
                else:
                    self._leave_batch(entry, others)
                    self._in_flight.dispatch()
            batch = {
                entry: each for entry, each in batch.items() if not entry.disposition
            }  # a peer may have one by now
            if batch:
                await self._handle(list(batch), list(batch.values()))
            # An entry leaves the table as soon as it is done with, or a sign of life would put it back. The first one
            # stays until its slot goes on, and so comes last.
            failed = [entry for entry in batch if entry.decision is not None and entry.disposition != "lost"]
            await self._settler.apply_decisions(failed)
            for entry in failed:
                self._leave_batch(entry, others)
            for entry in reversed(batch):
                if entry not in failed:
                    await self._settle_success(entry)
                    self._leave_batch(entry, others)
        finally:
            for entry in list(others):
                self._in_flight.retry_after_self_cancel(entry)
                self._leave_batch(entry, others)

    def _leave_batch(self, entry: Entry, others: dict[Entry, None]) -> None:
        if entry in others:
            del others[entry]
            self._in_flight.finish_batched(entry)

    def _may_share_batch(self, entry: Entry) -> bool:
        is_last_attempt = not entry.attempt_counted and entry.deliveries + 1 >= self._policy.max_deliveries
        return not (entry.is_suspect or is_last_attempt)

    async def _prepare(self, entry: Entry) -> Message | None:
        """What the handler gets of an entry; None if that is settled in another way, or another consumer's by now."""
        data = await self._settler.prepare_data(entry)
        if data is None or entry.disposition:
            return None
        return Message(entry.message_id, *self._consumer_id, entry.deliveries, data)

    async def _handle(self, entries: Sequence[Entry], messages: list[Message]) -> None:
        """Call the handler. What it raises is a verdict on the entries by now; only a cancellation goes on."""
        token, started = set_current(messages), time.perf_counter()
        try:
            await self._run_traced(entries, messages)
        except BaseException as error:
            if isinstance(error, PROCESS_EXIT_ERRORS) or (
                isinstance(error, asyncio.CancelledError) and was_cancelled()
            ):
                raise  # otherwise it was judged and logged where the span was current
        finally:
            self._metrics.record_duration(time.perf_counter() - started)
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
        """Raises if all of the batch failed, which is the span's error: what all failed of, if that is of one kind."""
        failure = await self._call_handler(entries, batch)
        if failure is None:
            return
        failures = failure.failures if isinstance(failure, BatchFailed) else dict.fromkeys(range(len(batch)), failure)
        whole = len(failures) == len(batch)
        ours = [(entries[index], error) for index, error in failures.items() if entries[index].disposition != "lost"]
        self._settler.on_batch_failure(ours, is_whole_batch=whole)
        if whole:
            raise next(iter(failures.values())) if len(set(map(type, failures.values()))) == 1 else failure

    async def _call_handler(self, entries: Sequence[Entry], batch: list[Mapping[Any, Any]]) -> BaseException | None:
        """What the batch failed of; a cancellation from outside is raised."""
        task, timeout, timer = asyncio.current_task(), self._policy.timeout, None
        assert task
        if timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout.total_seconds(), _cancel_timed_out, task, entries)
        failure: BaseException | None = None
        try:
            _reject_effects(await self._handler()(batch))
        except BatchFailed as error:
            failure = _validate_failures(error, len(batch))
        except PROCESS_EXIT_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001 - judged by whoever called
            failure = error
        finally:
            if timer is not None:
                timer.cancel()
        if any(entry.disposition == "timeout" for entry in entries):
            return handler_timeout_error(timeout)
        if isinstance(failure, asyncio.CancelledError) and was_cancelled():
            raise failure
        return failure

    async def _settle_success(self, entry: Entry) -> None:
        if not entry.disposition:
            await self._settler.on_success(entry, None)


def _cancel_timed_out(task: asyncio.Task[None], entries: Iterable[Entry]) -> None:
    """Its time is over for all, and they are cancelled once."""
    overdue = [entry for entry in entries if not entry.disposition]
    for entry in overdue:
        entry.disposition = "timeout"
    if overdue:
        task.cancel()


def _validate_failures(failed: BatchFailed, count: int) -> BaseException | None:
    """What a `BatchFailed` means for so many messages: itself, nothing, or what is wrong with it."""
    for index, error in failed.failures.items():
        if type(index) is not int or not 0 <= index < count:
            wrong: Exception = IndexError(f"BatchFailed names index {index!r}; the list had 0 to {count - 1}")
        elif not isinstance(error, BaseException):
            wrong = TypeError(f"BatchFailed has {error!r:.80} at index {index}; expected the exception it failed with")
        else:
            continue
        wrong.__cause__ = failed
        return wrong
    return failed if failed.failures else None


def _reject_effects(result: Any) -> None:
    found = result if isinstance(result, list | tuple) else [result]
    if any(isinstance(each, Effects) for each in found):
        raise EffectsRejected(
            "a batch handler returned Effects, which happen with the acknowledgement of one message; nothing was "
            "applied: return None and write to Redis yourself, or take single messages (handler.batch: false)"
        )
