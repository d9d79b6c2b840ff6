"""Handler with a control timer: a task that sleeps and measures its own lateness.

A pod that the machine does not run cannot start messages in time. The lateness of the control timer separates such
samples from those that measure the product. The timer starts with the first message of the process.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from streamconsumer.processor import current_message
from tests.reliability import scripted_handler

INTERVAL_SECONDS = 0.02
MIN_RECORDED_SECONDS = 0.05

_timers: list[asyncio.Task[None]] = []


def control_file(ledger: Path) -> Path:
    """Return the path of the file with one line per late wake-up: consumer, time, lateness."""
    return ledger.with_suffix(".control")


def max_lateness(ledger: Path, consumers: set[str], begin: float, end: float) -> float:
    """Return the maximum lateness of these consumers' timers while they waited between `begin` and `end`."""
    file = control_file(ledger)
    lines = [line.split(" ") for line in file.read_text().splitlines()] if file.exists() else []
    return max(
        (
            float(late)
            for consumer, at, late in lines
            if consumer in consumers and float(at) >= begin and float(at) - float(late) <= end
        ),
        default=0.0,
    )


async def handle(data: dict[str, Any]) -> None:
    """Start the control timer, and do the same as `scripted_handler.handle`."""
    if not _timers:
        _timers.append(asyncio.create_task(measure_lateness(current_message().consumer)))
    await scripted_handler.handle(data)


async def measure_lateness(consumer: str) -> None:
    """Record late wake-ups until the task is cancelled."""
    with control_file(Path(os.environ["LEDGER"])).open("a", buffering=1) as lines:
        while True:
            due = time.monotonic() + INTERVAL_SECONDS
            await asyncio.sleep(INTERVAL_SECONDS)
            if (late := time.monotonic() - due) > MIN_RECORDED_SECONDS:
                lines.write(f"{consumer} {time.time():.3f} {late:.3f}\n")
