"""Handlers of the simulated pods. Each handler decides by the number of its message, so that a replay repeats it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import timedelta
from typing import Any

from streamconsumer.processor import BatchFailed, Defer, Effects, Reject, Retry
from tests.simulation.loop import SimulationLoop
from tests.simulation.plan import HandlerKind, PodPlan

EFFECT_KEY = "{orders}:handled"
"""Prefix of the keys that the handlers' effects increment, one key per message."""

MIXED: tuple[HandlerKind, ...] = ("instant", "slow", "failing", "deferring", "rejecting", "effects", "instant")


def kind_of(plan: PodPlan, number: int) -> HandlerKind:
    """Return the behaviour for a message."""
    return MIXED[number % len(MIXED)] if plan.handler == "mixed" else plan.handler


async def handle(kind: HandlerKind, number: int, attempt: int) -> Effects | None:
    """Handle one message. `attempt` starts at 1 and counts the attempts in all pods."""
    match kind:
        case "slow":
            await asyncio.sleep(0.2 + number % 5 * 1.5)
        case "failing":
            await asyncio.sleep(0.01)
            if attempt <= number % 4:
                raise RuntimeError("the database is down")
        case "deferring":
            if attempt <= number % 3:
                raise Defer(timedelta(seconds=[0.5, 3, 20][number % 3]))
        case "rejecting":
            await asyncio.sleep(1.5 if number % 2 else 0)
            raise Reject("no such customer")
        case "effects":
            await asyncio.sleep(1.5 if number % 2 else 0.01)
            return Effects().increment(f"{EFFECT_KEY}:{number}")
        case "stubborn":
            await _ignore_cancellation(0.5 + number % 4 * 2)
        case "self_cancelling":
            await asyncio.sleep(0.05)
            if number % 3 == 0 and attempt == 1:
                task = asyncio.current_task()
                assert task
                task.cancel()
            if number % 3 == 1 and attempt == 1:
                await asyncio.sleep(0)
        case "process_exit":
            await asyncio.sleep(0.05)
            if number % 7 == 3 and attempt == 1:
                raise KeyboardInterrupt
            if number % 7 == 5:
                raise Retry("try later", after=timedelta(seconds=5))
        case _:
            await asyncio.sleep(0)
    return None


async def handle_batch(kind: HandlerKind, numbers: list[int], attempts: list[int]) -> None:
    """Handle a batch. A message of a batch fails alone."""
    failures: dict[int, BaseException] = {}
    for index, (number, attempt) in enumerate(zip(numbers, attempts, strict=True)):
        try:
            await handle("instant" if kind == "effects" else kind, number, attempt)
        except Exception as error:  # noqa: BLE001 - each becomes the outcome of its message
            failures[index] = error
    if failures:
        raise BatchFailed(failures)


def thread_seconds(kind: HandlerKind, number: int) -> float | None:
    """Return how long a plain function runs in its thread. None if it never returns."""
    if kind == "hung_thread":
        return None if number % 5 == 0 else 0.2
    return 0.05 + number % 4


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

    def __init__(self, loop: SimulationLoop, max_threads: int, seconds: Callable[[Any], float | None]) -> None:
        self._loop, self._free, self._seconds = loop, max_threads, seconds
        self._queue: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self._process_context = None

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
                self._loop.call_later(seconds, self._finish, future, outcome, error)

    def _finish(self, future: Future[Any], outcome: Any, error: BaseException | None) -> None:
        self._free += 1
        if error is None:
            future.set_result(outcome)
        else:
            future.set_exception(error)
        self._start()
