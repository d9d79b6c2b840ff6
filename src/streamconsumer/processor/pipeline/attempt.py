"""Runs one attempt to handle a message: calls the handler inside the message's span.

The decision on an error is also made and logged inside the span, so that the log line contains the span's ids.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from streamconsumer.processor.entry_state import LOST, RUNNING, SETTLING
from streamconsumer.processor.forked_children import end_if_forked
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler, finish_result
from streamconsumer.processor.message import Entry, MessageContext
from streamconsumer.processor.pipeline.retry_policy import ToDeadLetter, process_exit
from streamconsumer.processor.pipeline.settlement import Settler
from streamconsumer.processor.pipeline.timeouts import HandlerTimeouts
from streamconsumer.processor.telemetry import MessageTracing


class AttemptRunner:
    """Runs attempts. `run` returns the handler's result or raises the handler's error.

    After an error of the handler, the entry is in the state `settling`, and `entry.decision` contains the decision to
    retry or dead-letter the message. If there is no decision after an error, the attempt was cancelled: another
    consumer claimed the entry, or the drain timed out."""

    def __init__(
        self,
        handler: Callable[[], AsyncHandler],
        settler: Settler,
        telemetry: MessageTracing | None,
        timeouts: HandlerTimeouts,
    ) -> None:
        self._handler, self._settler, self._telemetry, self._timeouts = handler, settler, telemetry, timeouts
        self.trace_fields = telemetry.trace_fields if telemetry else frozenset()
        """Name of the trace context field, as text and as bytes. A message without this field gets no span.

        None if any message can get a span."""
        self.run = self._run_untraced if telemetry is None else self._run_maybe_traced

    def _run_maybe_traced(
        self, entry: Entry, context: MessageContext, data: dict[Any, Any]
    ) -> Coroutine[Any, Any, Any]:
        assert self._telemetry
        attempt = self._telemetry.start_attempt(entry, data)
        return (
            self._run_untraced(entry, context, data)
            if attempt is None
            else self._run_traced(attempt, entry, context, data)
        )

    async def _run_traced(self, attempt: Any, entry: Entry, context: MessageContext, data: dict[Any, Any]) -> Any:
        assert self._telemetry
        try:
            result = await self._run_untraced(entry, context, data)
        except BaseException as error:
            self._telemetry.end_attempt(attempt, entry, _outcome_label(entry), error)
            raise
        # A handler that is cancelled, because another consumer claimed the entry or a drain ended, may still return.
        outcome = "effects" if isinstance(result, Effects) else "" if entry.is_standalone else "ack"
        self._telemetry.end_attempt(attempt, entry, outcome if entry.state is RUNNING else "released")
        return result

    async def _run_untraced(self, entry: Entry, _context: MessageContext, data: dict[Any, Any]) -> Any:
        pid = os.getpid()
        try:
            result = await self.call_with_timeout(entry, data)
        except BaseException as error:
            end_if_forked(pid, error)
            failure = self.record_failure(entry, error)
            if failure is error:
                raise
        else:
            end_if_forked(pid)
            if entry.state is not SETTLING:
                return result
            failure = self.record_failure(entry)
        raise failure

    async def call_with_timeout(self, entry: Entry, data: dict[Any, Any]) -> Any:
        """Call the handler, and cancel it after `delivery.timeout`."""
        task = asyncio.current_task()
        if self._timeouts.timeout is None or entry.is_standalone or task is None:
            return await finish_result(await self._handler()(data))
        self._timeouts.start(entry, task)
        try:
            return await finish_result(await self._handler()(data))
        finally:
            self._timeouts.finish(entry)

    def record_failure(self, entry: Entry, error: BaseException | None = None) -> BaseException:
        """Decide how a failed attempt is settled, and return its error. `error` is None if the handler returned after
        its timeout.

        Makes no decision if the current task was cancelled, the entry is lost, or the process ends."""
        if error is not None and (exit_error := process_exit(error)) is not None:
            return exit_error
        if entry.state is SETTLING:
            error = handler_timeout_error(self._timeouts.timeout)
        assert error is not None
        is_cancelled = entry.state is RUNNING and isinstance(error, asyncio.CancelledError) and was_cancelled()
        if not is_cancelled and entry.state is not LOST:
            self._settler.on_failure(entry, error)
        return error


def _outcome_label(entry: Entry) -> str:
    """Return the outcome that the span of a failed attempt records. An attempt without a decision was cancelled."""
    if entry.state is not SETTLING:
        return "released"
    if isinstance(entry.decision.action, ToDeadLetter):
        return "dead_letter"
    return "defer" if entry.decision.action.is_deferred else "retry"


def was_cancelled() -> bool:
    """Return True if the current task was cancelled, False if the handler itself raised a CancelledError."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def handler_timeout_error(timeout: timedelta | None) -> TimeoutError:
    """Return the error for a handler that exceeded `delivery.timeout`."""
    return TimeoutError(f"the handler took longer than delivery.timeout, {timeout}")
