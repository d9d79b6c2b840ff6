"""The one way to wait for something that no event announces: look until it is so, or the deadline has passed."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PAUSE_SECONDS = 0.01


async def eventually(condition: Callable[[], Any], within: float = 5.0) -> Any:
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
        await asyncio.sleep(PAUSE_SECONDS)
