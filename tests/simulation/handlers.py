"""Handlers of the simulated pods. Each handler decides by the number of its message, so that a replay repeats it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import timedelta
from typing import Any

from streamconsumer.processor import BatchFailed, Defer, Effects, Reject, Retry
from tests.simulation.loop import SimulationLoop
from tests.simulation.plan import HandlerKind, Plan, PodPlan

EFFECT_KEY = "{orders}:handled"
"""Prefix of the keys that the handlers' effects increment, one key per message."""

TEXT_KEY = "{orders}:text"
"""Key that contains no number."""

MIXED: tuple[HandlerKind, ...] = ("instant", "slow", "failing", "deferring", "rejecting", "effects", "instant")

PROBE_NUMBER = 1_000_000
"""Messages from this number on occupy a slot for `PROBE_SECONDS`."""

PROBE_SECONDS = 3.0

SHORT_SECONDS = 1.5

MAX_SECONDS: dict[HandlerKind, float] = {"slow": 6.2, "mixed": 6.2, "stubborn": 6.5, "thread": 9.05, "long": 45.0}
"""Longest run of a handler. `SHORT_SECONDS` for all other handlers that end."""

MAX_ENTRIES_PER_READ = 10
"""Maximum number of entries of a read, and of a batch."""


class BaseError(BaseException):
    """Error that is no Exception, such as the Timeout of gevent."""


def kind_of(plan: PodPlan, number: int) -> HandlerKind:
    """Return the behaviour for a message."""
    if number >= PROBE_NUMBER:
        return "probe"
    return MIXED[number % len(MIXED)] if plan.handler == "mixed" else plan.handler


async def handle(kind: HandlerKind, number: int, attempt: int) -> Effects | None:
    """Handle one message. `attempt` starts at 1 and counts the attempts in all pods."""
    match kind:
        case "probe":
            await asyncio.sleep(PROBE_SECONDS)
        case "slow":
            await asyncio.sleep(0.2 + number % 5 * 1.5)
        case "steady":
            await asyncio.sleep(0.04)
            if attempt == 1 and number % 2:
                raise Defer(timedelta(seconds=3))
        case "long":
            await asyncio.sleep(45)
        case "effects":
            await asyncio.sleep(1.5 if number % 2 else 0.01)
            return Effects().increment(f"{EFFECT_KEY}:{number}")
        case "conflicting_effects":
            effects = Effects().increment(f"{EFFECT_KEY}:{number}")
            return effects.increment(TEXT_KEY) if number % 2 else effects.set(TEXT_KEY, "no number")
        case "stubborn":
            await _ignore_cancellation(0.5 + number % 4 * 2)
        case "self_cancelling" | "late_cancel":
            await _cancel_own_task(number, attempt, is_late=kind == "late_cancel")
        case _:
            await _fail(kind, number, attempt)
    return None


async def _fail(kind: HandlerKind, number: int, attempt: int) -> None:
    """Raise the error of the handler's kind, if this attempt fails."""
    match kind:
        case "failing":
            await asyncio.sleep(0.01)
            if attempt <= number % 4:
                raise RuntimeError("the database is down")
        case "deferring":
            if attempt <= number % 3:
                raise Defer(timedelta(seconds=[0.5, 3, 20][number % 3]))
        case "due_together":
            if attempt == 1:
                raise Defer(timedelta(seconds=15))
            await asyncio.sleep(0.04)
        case "failing_head":
            await asyncio.sleep(0.001)
            if number == 0 and attempt <= 10:
                raise Retry("the database is down", after=timedelta(seconds=8))
        case "deferring_long":
            if attempt <= 2:
                raise Defer(timedelta(seconds=100))
        case "rejecting":
            await asyncio.sleep(1.5 if number % 2 else 0)
            raise Reject("no such customer")
        case "grouped_reject":
            await asyncio.sleep(0.01)
            if number % 2:
                raise ExceptionGroup("tasks failed", [Reject("no such customer")])
        case "base_exception":
            await asyncio.sleep(0.01)
            if attempt <= number % 3:
                raise BaseError if number % 2 else SystemExit(1)
        case "process_exit":
            await asyncio.sleep(0.05)
            if number % 7 == 3 and attempt == 1:
                raise KeyboardInterrupt
            if number % 7 == 5 and attempt == 1:
                raise Retry("try later", after=timedelta(seconds=5))
        case _:
            await asyncio.sleep(0)


async def _cancel_own_task(number: int, attempt: int, *, is_late: bool) -> None:
    """Cancel the task of the handler: directly, or by a timer that the handler leaves behind."""
    await asyncio.sleep(0.05)
    task = asyncio.current_task()
    assert task
    if attempt == 1 and number % 3 == 0:
        if is_late:
            asyncio.get_running_loop().call_later(0.3, task.cancel)
        else:
            task.cancel()
    elif attempt == 1 and number % 3 == 1 and not is_late:
        task.cancel()
        await asyncio.sleep(0)


def busy_seconds(plan: Plan) -> float:
    """Return the longest time for which a handler that ends occupies its slot.

    A batch handles one message at a time."""
    return max(
        MAX_SECONDS.get(pod.handler, SHORT_SECONDS) * (MAX_ENTRIES_PER_READ if pod.is_batch else 1) for pod in plan.pods
    )


async def handle_batch(kind: HandlerKind, numbers: list[int], attempts: list[int]) -> None:
    """Handle a batch. A message of a batch fails alone."""
    failures: dict[int, BaseException] = {}
    for index, (number, attempt) in enumerate(zip(numbers, attempts, strict=True)):
        if kind == "probe" and index:
            continue
        try:
            await handle("instant" if kind == "effects" else kind, number, attempt)
        except Exception as error:  # noqa: BLE001 - each becomes the outcome of its message
            failures[index] = error
    if failures:
        raise BatchFailed(failures)


def thread_seconds(kind: HandlerKind, number: int) -> float | None:
    """Return how long a plain function runs in its thread. None if it never returns."""
    if kind == "probe":
        return PROBE_SECONDS
    if kind == "hung_thread":
        return None if number % 5 == 0 else 0.2
    return 0.05 + number % 4 * 3


async def _ignore_cancellation(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


class SimulatedThreads(Executor):
    """Threads for handlers that are not async. A call takes the virtual time that its message states."""

    def __init__(
        self,
        loop: SimulationLoop,
        max_threads: int,
        seconds: Callable[[Any], float | None],
        on_end: Callable[[Any], object],
    ) -> None:
        """`on_end` is called with the data of the messages before the result of a call is known."""
        self._loop, self._free, self._seconds, self._on_end = loop, max_threads, seconds, on_end
        self._queue: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_options: Any) -> Future[Any]:
        """Queue a call. The last argument is the data of the message."""
        future: Future[Any] = Future()
        self._queue.append((future, fn, args))
        self._start()
        return future

    def _start(self) -> None:
        while self._free and self._queue:
            future, function, args = self._queue.pop(0)
            if not future.set_running_or_notify_cancel():
                continue
            self._free -= 1
            try:
                outcome, error = function(*args), None
            except BaseException as raised:  # noqa: BLE001 - the future carries it
                outcome, error = None, raised
            seconds = self._seconds(args[-1])
            if seconds is not None:
                self._loop.call_later(seconds, self._finish, future, args[-1], outcome, error)

    def _finish(self, future: Future[Any], data: Any, outcome: Any, error: BaseException | None) -> None:
        self._free += 1
        self._on_end(data)
        if error is None:
            future.set_result(outcome)
        else:
            future.set_exception(error)
        self._start()
