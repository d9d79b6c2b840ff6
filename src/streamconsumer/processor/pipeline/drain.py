"""Drain of the in-flight table: waits for running handlers, and cancels them at the end of the drain."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from streamconsumer.processor.entry_state import WAITING
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.pipeline.in_flight import InFlightTable

log = logging.getLogger(__name__)

CANCEL_TIMEOUT = timedelta(seconds=1)
"""Maximum time to wait until a cancelled handler ends."""


async def drain(
    table: InFlightTable, metrics: Metrics, deadline: float, force_stop: asyncio.Event, clock: Callable[[], float]
) -> None:
    """Wait for running handlers. Cancels the handlers at `deadline` (seconds of the clock) or when `force_stop` is
    set."""
    forced = asyncio.create_task(force_stop.wait())
    while table.tasks and not forced.done() and (seconds_left := deadline - clock()) > 0:
        tasks = {forced, *table.tasks.values()}
        await asyncio.wait(tasks, timeout=seconds_left, return_when=asyncio.FIRST_COMPLETED)
    forced.cancel()
    if running := set(table.tasks.values()):
        metrics.abandoned += len(table.tasks)
        log_fields = {"messages": len(table.tasks)}
        log.warning("drain timeout reached; messages of cancelled handlers stay pending", extra=log_fields)
        for entry in map(table.entries.__getitem__, table.tasks):
            if entry.state is not WAITING:
                entry.apply("lose")
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_TIMEOUT.total_seconds())
    table.timeouts.close()
