"""One attempt at a message: its handler is called inside its span, and what it raises is judged there, where the log
line still has the span's ids."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler
from streamconsumer.processor.message import Entry, MessageContext
from streamconsumer.processor.pipeline.retry_policy import ToDeadLetter
from streamconsumer.processor.pipeline.settlement import Settler
from streamconsumer.processor.pipeline.timeouts import HandlerTimeouts
from streamconsumer.processor.telemetry import MessageTracing

PROCESS_EXIT_ERRORS = (KeyboardInterrupt, GeneratorExit)
"""What comes through a handler and is not its own: the process, or its event loop, ends. Anything else that it raises
is its failure, whether an Exception or not, as gevent's Timeout is none."""


class AttemptRunner:
    """Returns what the handler returns. What it raises is raised again, with a verdict on the entry; without one the
    attempt was cancelled: for a peer, or at the end of a drain."""

    def __init__(
        self,
        handler: Callable[[], AsyncHandler],
        settler: Settler,
        telemetry: MessageTracing | None,
        timeouts: HandlerTimeouts,
    ) -> None:
        self._handler, self._settler, self._telemetry, self._timeouts = handler, settler, telemetry, timeouts
        self.trace_fields = telemetry.trace_fields if telemetry else frozenset()
        """A message with one of these fields has a span, or a context to hand on. None: every one may."""
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
        # A handler may return although it was cancelled for a peer, or at the end of a drain.
        done = "effects" if isinstance(result, Effects) else "" if entry.is_standalone else "ack"
        self._telemetry.end_attempt(attempt, entry, "released" if entry.disposition else done)
        return result

    async def _run_untraced(self, entry: Entry, _context: MessageContext, data: dict[Any, Any]) -> Any:
        try:
            result = await self.call_with_timeout(entry, data)
        except PROCESS_EXIT_ERRORS:
            raise
        except BaseException as error:
            failure = self.record_failure(entry, error)
            if failure is error:
                raise
        else:
            if entry.disposition != "timeout":
                return result
            failure = self.record_failure(entry)
        raise failure

    async def call_with_timeout(self, entry: Entry, data: dict[Any, Any]) -> Any:
        """Call the handler, and cancel it when `delivery.timeout` is over."""
        task = asyncio.current_task()
        if self._timeouts.timeout is None or entry.is_standalone or task is None:
            return await self._handler()(data)
        self._timeouts.start(entry, task)
        try:
            return await self._handler()(data)
        finally:
            self._timeouts.finish(entry)

    def record_failure(self, entry: Entry, error: BaseException | None = None) -> BaseException:
        """What it failed of, with a verdict on the entry; unless it was cancelled. Without `error` it returned too
        late."""
        if error is None or entry.disposition == "timeout":
            error = handler_timeout_error(self._timeouts.timeout)
        elif isinstance(error, asyncio.CancelledError) and was_cancelled():
            return error
        self._settler.on_failure(entry, error)
        return error


def _outcome_label(entry: Entry) -> str:
    """What becomes of one that failed; without a verdict it was cancelled."""
    if entry.decision is None:
        return "released"
    return "dead_letter" if isinstance(entry.decision.action, ToDeadLetter) else "retry"


def was_cancelled() -> bool:
    """Whether the current task was cancelled; otherwise a CancelledError is the handler's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def handler_timeout_error(timeout: timedelta | None) -> TimeoutError:
    """What a handler has failed of that was cancelled for the time it took."""
    return TimeoutError(f"the handler took longer than delivery.timeout, {timeout}")
