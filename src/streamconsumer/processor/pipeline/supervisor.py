"""Supervisor: restarts background tasks after an error, and reports a task that keeps failing to the liveness probe."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from streamconsumer.processor.health import Health
from streamconsumer.processor.metrics import Metrics

log = logging.getLogger(__name__)

RESTART_DELAY_SECONDS = 1.0
"""Delay before a failed task is started again."""

MAX_FAILURES = 10
"""Number of consecutive failures after which the liveness probe of the pod fails."""

STABLE_SECONDS = 10.0
"""Time without a failure after which a task counts as successful."""


class Supervisor:
    """Runs background tasks of one pod."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._health, self._metrics = health, metrics

    async def run(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task until it returns or this call is cancelled. Starts the task again after each error."""
        failures = 0
        while True:
            watch = asyncio.get_running_loop().call_later(STABLE_SECONDS, self._health.failures.pop, name, None)
            started = asyncio.get_running_loop().time()
            try:
                await task()
            except Exception as error:  # noqa: BLE001 - a background task must not end unnoticed
                is_stable = asyncio.get_running_loop().time() - started >= STABLE_SECONDS
                failures = 1 if is_stable else failures + 1
                self._record_failure(name, error, failures)
            else:
                return
            finally:
                watch.cancel()
            await asyncio.sleep(RESTART_DELAY_SECONDS)

    def _record_failure(self, name: str, error: Exception, failures: int) -> None:
        self._metrics.background_restarts += 1
        if failures >= MAX_FAILURES:
            self._health.failures[name] = f"the background task {name!r} fails again and again ({error!r})"
        with suppress(MemoryError):
            log.error("background task failed; restarting it", exc_info=error, extra={"task": name})
