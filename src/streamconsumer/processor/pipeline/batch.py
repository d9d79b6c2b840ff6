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

from streamconsumer.errors import EffectsRefused
from streamconsumer.model.processor_settings import Delivery
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler
from streamconsumer.processor.handler.outcomes import BatchFailed
from streamconsumer.processor.message import Entry, Message, enter, leave
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.attempt import NOT_ITS_OWN, too_late, was_cancelled
from streamconsumer.processor.pipeline.in_flight import InFlight
from streamconsumer.processor.pipeline.settlement import Settling
from streamconsumer.processor.telemetry import Tracing


class Batches:
    """Runs batches of at most `most` messages. One for each start of a processor."""

    def __init__(
        self,
        handler: Callable[[], AsyncHandler],
        in_flight: InFlight,
        settling: Settling,
        policy: Delivery,
        *,
        most: int,
        who: tuple[str, str, str],
        telemetry: Tracing | None,
        metrics: Metrics,
    ) -> None:
        self._handler, self._policy = handler, policy
        self._in_flight, self._settling, self._metrics = in_flight, settling, metrics
        self._most, self._who, self._telemetry = most, who, telemetry

    async def run(self, first: Entry) -> None:
        """Handle an entry with what else is ready, and raise nothing but what ends its slot."""
        in_company = self._may_have_company(first)
        message = await self._prepared(first)
        if message is None:
            return
        most = self._most - 1 if in_company else 0
        others = dict.fromkeys(self._in_flight.join(first, most, self._may_have_company))
        batch = {first: message}
        try:
            for entry in list(others):
                if (message := await self._prepared(entry)) is not None:
                    batch[entry] = message
                else:
                    self._part(entry, others)
                    self._in_flight.advance()
            batch = {entry: each for entry, each in batch.items() if not entry.fate}  # a peer may have one by now
            if batch:
                await self._handle(list(batch), list(batch.values()))
            # An entry leaves the table as soon as it is done with, or a sign of life would put it back. The first one
            # stays until its slot goes on, and so comes last.
            failed = [entry for entry in batch if entry.verdict is not None and entry.fate != "lost"]
            await self._settling.settle_all(failed)
            for entry in failed:
                self._part(entry, others)
            for entry in reversed(batch):
                if entry not in failed:
                    await self._end(entry)
                    self._part(entry, others)
        finally:
            for entry in list(others):
                self._in_flight.unsettled(entry)
                self._part(entry, others)

    def _part(self, entry: Entry, others: dict[Entry, None]) -> None:
        if entry in others:
            del others[entry]
            self._in_flight.part(entry)

    def _may_have_company(self, entry: Entry) -> bool:
        is_last_attempt = not entry.is_counted and entry.deliveries + 1 >= self._policy.max_deliveries
        return not (entry.suspect or is_last_attempt)

    async def _prepared(self, entry: Entry) -> Message | None:
        """What the handler gets of an entry; None if that is settled in another way, or another consumer's by now."""
        data = await self._settling.data(entry)
        if data is None or entry.fate:
            return None
        return Message(entry.message_id, *self._who, entry.deliveries, data)

    async def _handle(self, entries: Sequence[Entry], messages: list[Message]) -> None:
        """Call the handler. What it raises is a verdict on the entries by now; only a cancellation goes on."""
        token, started = enter(messages), time.perf_counter()
        try:
            await self._traced(entries, messages)
        except BaseException as error:
            if isinstance(error, NOT_ITS_OWN) or (isinstance(error, asyncio.CancelledError) and was_cancelled()):
                raise  # otherwise it was judged and logged where the span was current
        finally:
            self._metrics.handled(time.perf_counter() - started)
            leave(token)

    async def _traced(self, entries: Sequence[Entry], messages: list[Message]) -> None:
        batch = [message.data for message in messages]
        if self._telemetry is None:
            await self._attempt(entries, batch)
            return
        attempt = self._telemetry.begin_batch(entries, messages)
        try:
            await self._attempt(entries, batch)
        except BaseException as error:
            self._telemetry.end_batch(attempt, entries, error)
            raise
        self._telemetry.end_batch(attempt, entries)

    async def _attempt(self, entries: Sequence[Entry], batch: list[Mapping[Any, Any]]) -> None:
        """Raises if all of the batch failed, which is the span's error: what all failed of, if that is of one kind."""
        failure = await self._failure(entries, batch)
        if failure is None:
            return
        failures = failure.failures if isinstance(failure, BatchFailed) else dict.fromkeys(range(len(batch)), failure)
        whole = len(failures) == len(batch)
        ours = [(entries[index], error) for index, error in failures.items() if entries[index].fate != "lost"]
        self._settling.judge_batch(ours, whole=whole)
        if whole:
            raise next(iter(failures.values())) if len(set(map(type, failures.values()))) == 1 else failure

    async def _failure(self, entries: Sequence[Entry], batch: list[Mapping[Any, Any]]) -> BaseException | None:
        """What the batch failed of; a cancellation from outside is raised."""
        task, timeout, timer = asyncio.current_task(), self._policy.timeout, None
        assert task
        if timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout.total_seconds(), _end_overdue, task, entries)
        failure: BaseException | None = None
        try:
            _refuse_effects(await self._handler()(batch))
        except BatchFailed as error:
            failure = _sound(error, len(batch))
        except NOT_ITS_OWN:
            raise
        except BaseException as error:  # noqa: BLE001 - judged by whoever called
            failure = error
        finally:
            if timer is not None:
                timer.cancel()
        if any(entry.fate == "timeout" for entry in entries):
            return too_late(timeout)
        if isinstance(failure, asyncio.CancelledError) and was_cancelled():
            raise failure
        return failure

    async def _end(self, entry: Entry) -> None:
        if not entry.fate:
            await self._settling.succeeded(entry, None)


def _end_overdue(task: asyncio.Task[None], entries: Iterable[Entry]) -> None:
    """Its time is over for all, and they are cancelled once."""
    overdue = [entry for entry in entries if not entry.fate]
    for entry in overdue:
        entry.fate = "timeout"
    if overdue:
        task.cancel()


def _sound(failed: BatchFailed, count: int) -> BaseException | None:
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


def _refuse_effects(result: Any) -> None:
    found = result if isinstance(result, list | tuple) else [result]
    if any(isinstance(each, Effects) for each in found):
        raise EffectsRefused(
            "a batch handler returned Effects, which happen with the acknowledgement of one message; nothing was "
            "applied: return None and write to Redis yourself, or take single messages (handler.batch: false)"
        )
