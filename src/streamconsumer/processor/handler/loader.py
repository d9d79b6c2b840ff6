"""Loader of the user's handler: imports `package.module:function`, and runs a plain function in a thread."""

import asyncio
import contextvars
import importlib
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamconsumer.errors import HandlerUnusable
from streamconsumer.model import names
from streamconsumer.processor.error_logging import format_error
from streamconsumer.processor.forked_children import end_if_forked
from streamconsumer.processor.message import current_messages
from streamconsumer.processor.runtime import DEFAULT_RUNTIME, Runtime

Handler = Callable[[dict[Any, Any]], Any]
BatchHandler = Callable[[list[dict[Any, Any]]], Any]
AsyncHandler = Callable[[Any], Awaitable[Any]]


THREADS_PER_SLOT = 3
"""Maximum number of threads per worker slot. A slot whose handler was cancelled gets a new thread, because Python
cannot end the old thread."""

MAX_WAIT_SECONDS = 120.0
"""Maximum time that a message waits until its own previous handler has ended. After this time, the liveness probe of
the pod fails."""


class HandlerThreadPool:
    """Threads for handlers that are not async. Threads start on demand."""

    def __init__(
        self, concurrency: int, runtime: Runtime = DEFAULT_RUNTIME, failures: dict[str, str] | None = None
    ) -> None:
        """`failures` contains the reasons why the liveness probe of the pod fails. The pool adds a reason in two cases:
        all threads are busy with handlers that were cancelled, or a message waits too long for its own previous
        handler."""
        self._clock = runtime.clock
        self._max_threads = THREADS_PER_SLOT * concurrency
        self._pool = runtime.create_thread_pool(self._max_threads)
        self._failures = {} if failures is None else failures
        self._calls: set[Future[Any]] = set()
        self.abandoned: set[Future[Any]] = set()
        """Calls that are still running although the task that awaited them was cancelled."""
        self._reserved: set[asyncio.Task[Any]] = set()
        """Tasks for which a thread is reserved."""
        self._freed: asyncio.Event | None = None
        """Event that is set when a thread may have become free. None until a task has waited for a thread."""
        self.is_stopping = False
        """True if no task waits for a thread, because the processor is stopping."""
        self.busy_ids: set[str] = set()
        """Ids of the messages that threads are handling. Cancelling the task that awaits a thread does not stop the
        thread."""
        self._waiting_since: dict[str, float] = {}
        """Time at which each message started to wait for its previous handler. The keys are message ids."""

    @property
    def is_exhausted(self) -> bool:
        """True if a call in the current task would wait for a thread."""
        free = self._max_threads - len(self._calls) - len(self._reserved)
        return free <= 0 and free + (asyncio.current_task() in self._reserved) <= 0

    async def wait_for_thread(self) -> None:
        """Wait until a call of the handler would start immediately, or until `stop_waiting` is called. The timeout of a
        handler starts with its call."""
        while not self.is_stopping:
            if self._freed is None or self._freed.is_set():
                self._freed = asyncio.Event()
            if not self.is_exhausted:
                return
            await self._freed.wait()

    def stop_waiting(self) -> None:
        """End all waits for a thread, because the processor is stopping."""
        self.is_stopping = True
        if self._freed is not None:
            self._freed.set()

    async def reserve_thread(self) -> None:
        """Wait for a free thread, and reserve the thread for the current task until the next call in this task."""
        await self.wait_for_thread()
        if (task := asyncio.current_task()) is not None and task not in self._reserved:
            self._reserved.add(task)
            task.add_done_callback(self._end_reservation)

    def _end_reservation(self, task: asyncio.Task[Any]) -> None:
        self._reserved.discard(task)
        task.remove_done_callback(self._end_reservation)
        if self._freed is not None:
            self._freed.set()

    async def call(self, handler: Callable[[Any], Any], data: Any) -> Any:
        """Run the handler in a thread. The handler gets a copy of the caller's context variables."""
        if self.is_exhausted:
            await self.wait_for_thread()
        if (task := asyncio.current_task()) in self._reserved:
            self._end_reservation(task)
        message_ids = [message.message_id for message in current_messages()]
        run, loop = contextvars.copy_context().run, asyncio.get_running_loop()
        future = self._pool.submit(run, _call_in_thread, handler, data)
        self._calls.add(future)
        self.busy_ids.update(message_ids)

        def on_done(_: Any) -> None:  # called in the thread
            self._calls.discard(future)
            self.abandoned.discard(future)
            self._failures.pop("threads", None)
            for message_id in message_ids:
                self.end(message_id)
            if self._freed is not None:
                with suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(self._freed.set)

        future.add_done_callback(on_done)
        try:
            return await asyncio.wrap_future(future)
        finally:
            if not future.done():
                self._abandon(future)

    def record_wait(self, message_id: str) -> None:
        """Record that a message must wait, because its previous handler is still running."""
        seconds = self._clock() - self._waiting_since.setdefault(message_id, self._clock())
        if seconds >= MAX_WAIT_SECONDS:
            self._failures[message_id] = (
                f"message {message_id} has waited for {seconds:.0f} s until its previous handler ends, although that "
                "handler was cancelled; set a timeout for each call in the handler"
            )
        if message_id not in self.busy_ids:  # the handler has ended meanwhile
            self.end(message_id)

    def end(self, message_id: str, _: object = None) -> None:
        """Record that the handler of a message has ended."""
        self.busy_ids.discard(message_id)
        self._waiting_since.pop(message_id, None)
        self._failures.pop(message_id, None)

    def _abandon(self, future: Future[Any]) -> None:
        self.abandoned.add(future)
        if len(self.abandoned) >= self._max_threads:
            self._failures["threads"] = (
                f"all {self._max_threads} threads are busy with handlers that were cancelled, for example because they "
                "exceeded delivery.timeout; set a timeout for each call in the handler"
            )
        if future.done():  # the call may have ended in its thread
            self.abandoned.discard(future)
            self._failures.pop("threads", None)


def add_handler_paths() -> None:
    """Insert the working directory and the mount folder of `handler.source` at the start of `sys.path`."""
    sys.path[:0] = [path for path in (str(Path.cwd()), names.SOURCE_FOLDER) if path not in sys.path]


def load_handler(path: str, *, batch: bool = False) -> Handler | BatchHandler:
    """Import the handler. Raises HandlerUnusable if the handler cannot be used. The error message is one line."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = f"module {error.name!r} not found" if error.name else str(error)
        raise HandlerUnusable(
            f"handler {path!r}: {missing}; check that the module is in the image and on PYTHONPATH"
        ) from None
    except (Exception, SystemExit) as error:
        raise HandlerUnusable(f"handler {path!r}: import failed: {format_error(error)}") from error
    handler = getattr(module, name, None)
    if handler is None:
        functions = ", ".join(_public_functions(module)) or "no functions"
        raise HandlerUnusable(f"handler {path!r}: module {module_name!r} has no {name!r}; found {functions}")
    return validate_handler(handler, path, batch=batch)


def validate_handler(handler: Any, path: str, *, batch: bool = False) -> Handler | BatchHandler:
    """Return the handler. Raises HandlerUnusable if the handler does not take a dict, or a list if `batch` is True."""
    if not callable(handler):
        argument = "a list of dicts" if batch else "one dict"
        raise HandlerUnusable(
            f"handler {path!r} is {type(handler).__name__}; expected a function that takes {argument}"
        )
    call_method = getattr(handler, "__call__", None)  # noqa: B004 - an object may have a generator as its __call__
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (handler, call_method)):
        raise HandlerUnusable(
            f"handler {path!r} is a generator function: calling it does not run its body; remove `yield`"
        )
    try:
        inspect.signature(handler).bind([] if batch else {})
    except TypeError:
        argument = "the list of the batch's data" if batch else "the message's data"
        raise HandlerUnusable(
            f"handler {path!r} takes {inspect.signature(handler)}; expected one argument, {argument}"
        ) from None
    except ValueError:  # a builtin without a signature
        pass
    return handler  # type: ignore[no-any-return] # callable() does not narrow the type further


def as_coroutine(
    handler: Handler | BatchHandler, thread_pool: HandlerThreadPool, *, batch: bool = False
) -> AsyncHandler:
    """Return an async function that calls the handler. A coroutine function is returned unchanged, and any other
    function runs in a thread. Raises HandlerUnusable if the handler does not take a dict, or a list if `batch` is
    True."""
    validate_handler(handler, getattr(handler, "__qualname__", type(handler).__name__), batch=batch)
    call_method = getattr(handler, "__call__", None)  # noqa: B004 - an object may have an async __call__
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call_method):
        return handler

    async def in_thread(data: Any) -> Any:
        return await thread_pool.call(handler, data)

    return in_thread


async def finish_result(result: Any) -> Any:
    """Wait until the work that a handler has returned is finished, and return its result.

    Such work is a coroutine, task or future, for example because the handler lacks an `await`. Raises TypeError if the
    handler returned a generator, because its body has not run."""
    while inspect.isawaitable(result) or isinstance(result, Future):
        result = await (asyncio.wrap_future(result) if isinstance(result, Future) else result)
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        kind = type(result).__name__.replace("_", " ")
        raise TypeError(
            f"result of the handler: found {kind}, whose body has not run, expected None or Effects; "
            "remove `yield` from the function, or iterate over the generator in the handler"
        )
    return result


def _call_in_thread(handler: Callable[[Any], Any], data: Any) -> Any:
    """Call the handler. Converts StopIteration to RuntimeError, because a future cannot raise StopIteration."""
    pid = os.getpid()
    try:
        result = handler(data)
    except StopIteration as error:
        end_if_forked(pid, error)
        raise RuntimeError("the handler raised StopIteration") from error
    except BaseException as error:
        end_if_forked(pid, error)
        raise
    end_if_forked(pid)
    return result


def _public_functions(module: Any) -> list[str]:
    return [name for name, member in vars(module).items() if inspect.isfunction(member) and not name.startswith("_")]
