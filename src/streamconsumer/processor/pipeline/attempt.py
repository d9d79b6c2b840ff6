"""One attempt at a message: its handler is called inside its span, and what it raises is judged there, where the log
line still has the span's ids."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.handler.loader import AsyncHandler
from streamconsumer.processor.message import Entry, Told
from streamconsumer.processor.pipeline.retry_policy import Bury
from streamconsumer.processor.pipeline.settlement import Settling
from streamconsumer.processor.pipeline.timeouts import Overdue
from streamconsumer.processor.telemetry import Tracing

NOT_ITS_OWN = (KeyboardInterrupt, GeneratorExit)
"""What comes through a handler and is not its own: the process, or its event loop, ends. Anything else that it raises
is its failure, whether an Exception or not, as gevent's Timeout is none."""


class Attempts:
    """Returns what the handler returns. What it raises is raised again, with a verdict on the entry; without one the
    attempt was cancelled: for a peer, or at the end of a drain."""

    def __init__(
        self,
        handler: Callable[[], AsyncHandler],
        settling: Settling,
        telemetry: Tracing | None,
        overdue: Overdue,
    ) -> None:
        self._handler, self._settling, self._telemetry, self._overdue = handler, settling, telemetry, overdue
        self.carriers = telemetry.carriers if telemetry else frozenset()
        """A message with one of these fields has a span, or a context to hand on. None: every one may."""
        self.of = self._plain if telemetry is None else self._perhaps_traced

    def _perhaps_traced(self, entry: Entry, told: Told, data: dict[Any, Any]) -> Coroutine[Any, Any, Any]:
        assert self._telemetry
        attempt = self._telemetry.begin(entry, data)
        return self._plain(entry, told, data) if attempt is None else self._traced(attempt, entry, told, data)

    async def _traced(self, attempt: Any, entry: Entry, told: Told, data: dict[Any, Any]) -> Any:
        assert self._telemetry
        try:
            result = await self._plain(entry, told, data)
        except BaseException as error:
            self._telemetry.end(attempt, entry, _outcome(entry), error)
            raise
        # A handler may return although it was cancelled for a peer, or at the end of a drain.
        done = "effects" if isinstance(result, Effects) else "" if entry.is_alone else "ack"
        self._telemetry.end(attempt, entry, "released" if entry.fate else done)
        return result

    async def _plain(self, entry: Entry, _told: Told, data: dict[Any, Any]) -> Any:
        try:
            result = await self.in_time(entry, data)
        except NOT_ITS_OWN:
            raise
        except BaseException as error:
            failure = self.judged(entry, error)
            if failure is error:
                raise
        else:
            if entry.fate != "timeout":
                return result
            failure = self.judged(entry)
        raise failure

    async def in_time(self, entry: Entry, data: dict[Any, Any]) -> Any:
        """Call the handler, and cancel it when `delivery.timeout` is over."""
        task = asyncio.current_task()
        if self._overdue.timeout is None or entry.is_alone or task is None:
            return await self._handler()(data)
        self._overdue.watch(entry, task)
        try:
            return await self._handler()(data)
        finally:
            self._overdue.done(entry)

    def judged(self, entry: Entry, error: BaseException | None = None) -> BaseException:
        """What it failed of, with a verdict on the entry; unless it was cancelled. Without `error` it returned too
        late."""
        if error is None or entry.fate == "timeout":
            error = too_late(self._overdue.timeout)
        elif isinstance(error, asyncio.CancelledError) and was_cancelled():
            return error
        self._settling.judge(entry, error)
        return error


def _outcome(entry: Entry) -> str:
    """What becomes of one that failed; without a verdict it was cancelled."""
    if entry.verdict is None:
        return "released"
    return "dead_letter" if isinstance(entry.verdict.decision, Bury) else "retry"


def was_cancelled() -> bool:
    """Whether the current task was cancelled; otherwise a CancelledError is the handler's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def too_late(timeout: timedelta | None) -> TimeoutError:
    """What a handler has failed of that was cancelled for the time it took."""
    return TimeoutError(f"the handler took longer than delivery.timeout, {timeout}")
