"""Event loop with virtual time that runs several simulated processes, each with several threads.

The loop runs one callback at a time. A seeded random generator chooses the thread. The callbacks of one thread run in
order, as in a real event loop. When no callback is ready, the time jumps to the next timer. A run with the same seed
therefore repeats exactly.

A callback belongs to the thread whose context variable it carries. Tasks and timers inherit the variable, so that the
engine needs no change.
"""

import asyncio
import gc
import heapq
import itertools
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")

START_MICROSECONDS = 1_700_000_000_000_000
"""Virtual time at which each simulation starts."""

STEP_MICROSECONDS = 5
"""Virtual duration of one callback."""


class SimulationStalled(Exception):
    """The simulation has run out of callbacks, or has run too many steps."""


class Process:
    """A simulated operating-system process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_stopping = False
        """True after SIGTERM."""
        self.restarts = 0
        """Number of times that the processor was stopped and started again."""
        self.is_exiting = False
        """True after an error such as KeyboardInterrupt has ended the event loop, until the process ends."""
        self.max_timer_delay = 0
        """Maximum number of microseconds by which the timers of the process run late."""
        self.threads = {"main": Thread(self, "main")}

    def thread(self, name: str) -> "Thread":
        """Return the thread with this name, which is created on first use."""
        if name not in self.threads:
            self.threads[name] = Thread(self, name)
        return self.threads[name]

    @property
    def is_running(self) -> bool:
        """True if no thread is held, and the process has not ended."""
        return not self.is_dead and not any(thread.holds for thread in self.threads.values())

    def __repr__(self) -> str:
        return f"Process({self.name!r})"


class Thread:
    """A thread with ready callbacks. A held thread runs none of them."""

    def __init__(self, process: Process, name: str) -> None:
        self.process, self.name = process, name
        self.label = process.name if name == "main" else f"{process.name}/{name}"
        self.trace_label = self.label.encode()
        self.ready: deque[asyncio.Handle] = deque()
        self.holds = 0
        """Number of faults that hold the thread at present."""
        self.failing_writes: list[object] = []
        """Faults because of which the thread cannot allocate what it sends."""


WORLD = Process("world")
"""Pseudo-process of the network, the servers, the producers and the faults."""

CURRENT_THREAD: ContextVar[Thread] = ContextVar("current_thread", default=WORLD.threads["main"])


class SimulationTask(asyncio.Task[Any]):
    """Task whose hash is its number, so that the order of a set of tasks does not depend on memory addresses."""

    number = 0
    process = WORLD

    @property
    def main_function(self) -> str:
        """Qualified name of the coroutine function that the task runs."""
        return getattr(self.get_coro(), "__qualname__", "")

    @property
    def raised(self) -> BaseException | None:
        """Error that ended the task. Unlike `exception`, the property does not mark the error as retrieved."""
        return self._exception

    def __hash__(self) -> int:
        return self.number


class SimulationFuture(asyncio.Future[Any]):
    """Future whose hash is its number, see `SimulationTask`."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SimulationLoop(asyncio.BaseEventLoop):
    """Event loop of all simulated processes."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.set_debug(False)
        self.random = random
        self.microseconds = START_MICROSECONDS
        self.steps = 0
        self.errors: list[tuple[str, str]] = []
        """Errors that no task has handled: the violated invariant and the text."""
        self.before_step: Callable[[Thread], object] = lambda _thread: None
        """Called before each callback with the thread that runs it."""
        self.on_task_error: Callable[[BaseException], object] = lambda _error: None
        """Called with the error that has ended a task."""
        self.after_step: Callable[[SimulationTask], object] | None = None
        """Called with a task after each of its steps. None if nothing observes the steps."""
        self.on_exit: Callable[[Process, BaseException], object] = lambda process, _error: self.kill(process)
        """Called with a process and the SystemExit or KeyboardInterrupt that has reached its event loop."""
        self.connect: Callable[..., Any] | None = None
        """Opens a simulated connection. Set by the network."""
        self._tasks: list[SimulationTask] = []
        """All tasks. Without a reference, Python would run the `finally` blocks of a process that has been killed."""
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._sequence = itertools.count()
        self._active: dict[Thread, None] = {}
        """Threads that have ready callbacks, in the order in which they became active."""

    # -- time ----------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.microseconds / 1e6

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context or copy_context())
        self._enqueue(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context or copy_context())
        microseconds = round(when * 1e6)
        if max_delay := thread_of(handle).process.max_timer_delay:
            microseconds += self.random.randrange(max_delay)
        return self._push_timer(microseconds, handle)

    def at(self, microseconds: int, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Run a callback of the world at a virtual time."""
        handle = asyncio.TimerHandle(microseconds / 1e6, callback, args, self, _WORLD_CONTEXT)
        return self._push_timer(microseconds, handle)

    def after(self, microseconds: int, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Run a callback of the world after a virtual duration."""
        return self.at(self.microseconds + microseconds, callback, *args)

    def _push_timer(self, microseconds: int, handle: asyncio.TimerHandle) -> asyncio.TimerHandle:
        heapq.heappush(self._timers, (microseconds, next(self._sequence), handle))
        return handle

    # -- running -------------------------------------------------------------------------------------------------------

    def run_until(self, is_done: Callable[[], bool], *, max_steps: int) -> None:
        """Run callbacks until `is_done` returns True. Raises SimulationStalled if that never happens."""
        with self._as_running_loop():
            while not is_done():
                if self.steps >= max_steps:
                    raise SimulationStalled(f"found {self.steps} steps, expected the end of the simulation before")
                self.step()

    def step(self) -> None:
        """Run one callback. If no callback is ready, advance the time to the next timer first."""
        self._start_due_timers()
        threads = [thread for thread in self._active if not thread.holds]
        while not threads:
            while self._timers and self._timers[0][2].cancelled():
                heapq.heappop(self._timers)
            if not self._timers:
                raise SimulationStalled("found no callback and no timer")
            self.microseconds = max(self.microseconds, self._timers[0][0])
            self._start_due_timers()
            threads = [thread for thread in self._active if not thread.holds]
        thread = threads[0] if len(threads) == 1 else self.random.choice(threads)
        handle = thread.ready.popleft()
        if not thread.ready:
            del self._active[thread]
        if handle.cancelled():
            return
        self.steps += 1
        self.microseconds += STEP_MICROSECONDS
        self.before_step(thread)
        if thread.process.is_dead:
            return
        try:
            handle._run()
        except (SystemExit, KeyboardInterrupt) as error:
            if thread.process is WORLD:
                raise
            self.on_exit(thread.process, error)
        if isinstance(task := getattr(_callback_of(handle), "__self__", None), SimulationTask):
            self._after_step(task)

    def _after_step(self, task: SimulationTask) -> None:
        if task.done() and (error := task.raised) is not None:
            self.on_task_error(error)
        if self.after_step:
            self.after_step(task)

    def kill(self, process: Process) -> None:
        """End a process. Its callbacks and timers never run again."""
        process.is_dead = True
        for thread in process.threads.values():
            thread.ready.clear()
            self._active.pop(thread, None)

    def tasks_of(self, process: Process) -> "list[SimulationTask]":
        """Return the unfinished tasks of a process."""
        return [task for task in self._tasks if task.process is process and not task.done()]

    def dispose(self) -> None:
        """Delete all tasks. Python runs the `finally` blocks of unfinished coroutines, whose errors mean nothing."""
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for task in self._tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            self._forget_callbacks()
            self._tasks.clear()
            self.after_step = None
            self.before_step, self.on_exit, self.connect = lambda _thread: None, lambda *_: None, None
            self.on_task_error = lambda _error: None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine was never awaited
                while gc.collect():
                    """A `finally` block can keep its coroutine until the next collection."""
        finally:
            sys.unraisablehook = hook
            self._forget_callbacks()  # of the `finally` blocks
            self.close()

    def _forget_callbacks(self) -> None:
        self._timers.clear()
        self._active.clear()
        WORLD.threads["main"].ready.clear()

    def _start_due_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self.microseconds:
            _, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._enqueue(handle)

    def _enqueue(self, handle: asyncio.Handle) -> None:
        thread = thread_of(handle)
        if not thread.process.is_dead:
            thread.ready.append(handle)
            self._active[thread] = None

    @contextmanager
    def _as_running_loop(self) -> Iterator[None]:
        asyncio.events._set_running_loop(self)
        try:
            yield
        finally:
            asyncio.events._set_running_loop(None)

    # -- what tasks, futures and streams need --------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        future = SimulationFuture(loop=self)
        future.number = next(self._sequence)
        return future

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = SimulationTask(coro, loop=self, **options)
        task.number = next(self._sequence)
        task.process = (options.get("context") or copy_context()).get(CURRENT_THREAD, WORLD.threads["main"]).process
        self._tasks.append(task)
        return task

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_options: Any
    ) -> Any:
        assert self.connect is not None
        return await self.connect(protocol_factory, host, port)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        invariant = "unretrieved" if "never retrieved" in context["message"] else "unexpected_error"
        self.errors.append((invariant, f"{CURRENT_THREAD.get().label}: {context['message']}: {error!r}"))


def thread_of(handle: asyncio.Handle) -> Thread:
    """Return the thread to which a callback belongs."""
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(CURRENT_THREAD, WORLD.threads["main"])


def _callback_of(handle: asyncio.Handle) -> Any:
    return handle._callback  # type: ignore[attr-defined]


def context_of(thread: Thread) -> Context:
    """Return a new context in which callbacks and tasks belong to the thread."""
    context = Context()
    context.run(CURRENT_THREAD.set, thread)
    return context


_WORLD_CONTEXT = context_of(WORLD.threads["main"])
