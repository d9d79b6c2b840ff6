"""Polls a condition that no event announces, until it is true or the deadline has passed."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

POLL_INTERVAL_SECONDS = 0.01

TIMEOUT_SECONDS = 20.0
"""Default deadline: longer than any step takes on two busy cores, and shorter than `minIdle` in these tests.

After `minIdle` (30 s) claims hide most faults. Speed is measured in `benchmarks`, not here."""


async def eventually(condition: Callable[[], Any], within: float = TIMEOUT_SECONDS) -> Any:
    """Call `condition` until its result, or the result of its coroutine, is true. Returns the result."""
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not true after {within} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
