"""Limit of repairs: how often the operator applies the same child again although its manifest has not changed.

Another client may change a child after each repair, for example a second operator with other settings. Without a limit,
both clients would write without a pause, and each write of a Deployment can create a ReplicaSet. The first repairs are
immediate. After these repairs, the delay doubles with each repair.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from streamconsumer.operator.cache.workqueue import Key

IMMEDIATE_REPAIRS = 5
"""Number of repairs without a delay."""

MIN_DELAY_SECONDS, MAX_DELAY_SECONDS = 1.0, 60.0
"""First and maximum delay between two repairs."""

RESET_SECONDS = 600.0
"""Time without a repair after which the repairs are immediate again."""

log = logging.getLogger(__name__)


@dataclass
class _Repairs:
    """Repairs of one child."""

    applied_hash: str
    count: int = 0
    last_seconds: float = 0.0


@dataclass
class RepairLimit:
    """Limit of the repairs of the children of one StreamConsumer."""

    key: Key
    clock: Callable[[], float] = time.monotonic
    _children: dict[str, _Repairs] = field(default_factory=dict)
    _delays: list[timedelta] = field(default_factory=list)

    def may_apply(self, child: str, applied_hash: str) -> bool:
        """Return True if the child may be applied now. `child` is the kind and the name of the child, and
        `applied_hash` identifies the manifest of the child."""
        repairs, now = self._children.get(child), self.clock()
        if repairs is None or repairs.applied_hash != applied_hash:
            return True
        if repairs.count and now - repairs.last_seconds > RESET_SECONDS:
            repairs.count = 0
        if (remaining := repairs.last_seconds + _delay_seconds(repairs.count) - now) > 0:
            self._delays.append(timedelta(seconds=remaining))
            return False
        return True

    def record(self, child: str, applied_hash: str) -> None:
        """Count a successful apply, which is a repair if the manifest has not changed since the last apply."""
        repairs = self._children.get(child)
        if repairs is None or repairs.applied_hash != applied_hash:
            self._children[child] = _Repairs(applied_hash)
            return
        repairs.count, repairs.last_seconds = repairs.count + 1, self.clock()
        if (next_delay := _delay_seconds(repairs.count)) > 0:
            extra = {"namespace": self.key[0], "consumer": self.key[1], "child": child, "pause_seconds": next_delay}
            log.warning("another client changes a managed object repeatedly; delaying the next repair", extra=extra)

    def pop_delay(self) -> timedelta | None:
        """Return the time until the next repair is allowed, or None if no repair was delayed since the last call."""
        delays, self._delays = self._delays, []
        return min(delays, default=None)


def _delay_seconds(count: int) -> float:
    doublings = count - IMMEDIATE_REPAIRS
    return min(MIN_DELAY_SECONDS * 2.0**doublings, MAX_DELAY_SECONDS) if doublings >= 0 else 0.0
