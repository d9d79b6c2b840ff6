"""When to begin with what is new: at once; while many come, after them.

`kubectl` creates a thousand StreamConsumers one after the other, and waits for each. To begin with the first of them
meanwhile makes the rest wait, for the operator and for the controllers that its Deployments keep busy.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from streamconsumer.operator.queue import Key

MANY = 10
WITHIN = timedelta(milliseconds=500)
"""When so many have come in so short a time, more are expected."""

QUIET = timedelta(milliseconds=100)
"""So long after the last one that came, no more are expected."""

LONGEST = timedelta(seconds=5)
"""How long after the first one nobody waits any more: somebody may go on creating them."""


class Arrivals:
    """The room before the queue: `came` from the event loop, and `begin` is told when its time has come."""

    def __init__(self, begin: Callable[[Key], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._begin, self._clock = begin, clock
        self._first = 0.0
        self._latest: deque[float] = deque(maxlen=MANY)
        self._waiting: dict[Key, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def came(self, key: Key) -> None:
        """This one is new."""
        rest = self._rest(self._clock())
        if rest <= 0:
            self._begin(key)
            return
        self._waiting[key] = None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(rest, self._go)

    def _rest(self, now: float) -> float:
        """For how many seconds more are expected."""
        if not self._latest or now - self._latest[-1] > WITHIN.total_seconds():
            self._first = now
        self._latest.append(now)
        if len(self._latest) < MANY or now - self._latest[0] > WITHIN.total_seconds():
            return 0.0
        return min(QUIET.total_seconds(), self._first + LONGEST.total_seconds() - now)

    def _go(self) -> None:
        waiting, self._waiting, self._timer = self._waiting, {}, None
        for key in waiting:
            self._begin(key)
