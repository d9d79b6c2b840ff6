"""Clock, randomness and threads of a processor. A simulation replaces these sources, so that it can repeat a run
exactly. A simulation must also replace the event loop, because timers and timeouts use the clock of the event loop.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

ThreadMain = Callable[[], Coroutine[Any, Any, None]]
"""Coroutine function that is the main function of a thread with its own event loop."""


def start_thread(name: str, main: ThreadMain) -> None:
    """Run a coroutine function in a new daemon thread, in an event loop of its own. A cancellation of the coroutine
    ends the thread without an error."""

    def run() -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(main())

    threading.Thread(target=run, name=name, daemon=True).start()


def create_thread_pool(max_threads: int) -> Executor:
    """Create the threads for handlers that are not async."""
    return ThreadPoolExecutor(max_workers=max_threads, thread_name_prefix="handler")


@dataclass(frozen=True)
class Runtime:
    """Sources of everything that differs between two runs with the same input."""

    clock: Callable[[], float] = time.monotonic
    """Returns monotonic seconds."""
    random: Random = field(default_factory=Random)
    """Source of jitter. Jitter only spreads the actions of pods over time, so the random numbers need not be secure."""
    start_thread: Callable[[str, ThreadMain], object] = start_thread
    """Starts a thread with its own event loop."""
    create_thread_pool: Callable[[int], Executor] = create_thread_pool
    """Creates the threads for handlers that are not async. The argument is the maximum number of threads."""
    pod_uid: str = "-"
    """UID of the Kubernetes pod if this process is the main process of a pod, otherwise `-`."""


DEFAULT_RUNTIME = Runtime()
"""Runtime of a processor outside a simulation."""
