"""The one way to wait for something that no event announces: look until it is so, or the deadline has passed."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

POLL_INTERVAL_SECONDS = 0.01

TIMEOUT_SECONDS = 20.0
"""Longer than anything takes on two cores that others keep busy, and shorter than `minIdle` in these tests, 30 s, after
which much is mended by itself. How fast something is, is measured in benchmarks."""


async def eventually(condition: Callable[[], Any], within: float = TIMEOUT_SECONDS) -> Any:
    """What `condition` returns, or its coroutine, once that is true. It is asked again and again until the deadline."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {within} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
