"""When to tell of what was changed: once, together with what follows from it.

A write to a Deployment is answered by its controller, the scheduler and the kubelet, with a change each. Told one by
one they are a status each, and most are old before anybody reads them. Until its controller has answered, a Deployment
counts the pods of before the write: that is not worth telling either. Whether there is anybody to answer is seen by
that somebody once did.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from streamconsumer.operator.cache.workqueue import Key

QUIET_PERIOD = timedelta(seconds=1)
"""How long after a write, or after the last thing that followed from it, nothing more is expected."""

BASELINE_IN_MOTION = 20
"""Number of changed StreamConsumers above which the quiet time grows in proportion. With more of them, the controllers
answer each one later."""

MAX_DELAY = timedelta(seconds=5)
"""After how long it is told all the same: a roll-out may take an hour."""


@dataclass(frozen=True)
class Change:
    """One write to a child: what was done, to what, and why as an Event's reason."""

    reason: str
    message: str


@dataclass
class _PendingChanges:
    """What was written of one StreamConsumer, and when something moved."""

    first_seconds: float
    last_moved_seconds: float
    snapshot: object = None
    changes: list[Change] = field(default_factory=list)


@dataclass
class StatusDebounce:
    """Of each StreamConsumer what was written since the last report."""

    quiet_period: timedelta = QUIET_PERIOD
    max_delay: timedelta = MAX_DELAY
    clock: Callable[[], float] = time.monotonic
    _has_controllers: bool = False
    _pending: dict[Key, _PendingChanges] = field(default_factory=dict)

    def add(self, key: Key, changes: list[Change]) -> None:
        """These were made now."""
        if changes:
            now = self.clock()
            item = self._pending.setdefault(key, _PendingChanges(now, now))
            item.last_moved_seconds = now
            item.changes += changes

    def delay(self, key: Key, snapshot: object, *, is_observed: bool) -> timedelta | None:
        """How long to wait before what is found now, `gist`, is told; None: tell it. `answered` says whether that
        comes after what was written last."""
        self._has_controllers |= is_observed
        if (item := self._pending.get(key)) is None:
            return None
        now = self.clock()
        if (snapshot, is_observed) != item.snapshot:
            item.snapshot, item.last_moved_seconds = (snapshot, is_observed), now
        due = item.first_seconds + self.max_delay.total_seconds()
        if is_observed or not self._has_controllers:
            due = min(
                due,
                item.last_moved_seconds
                + self.quiet_period.total_seconds() * max(1, len(self._pending) / BASELINE_IN_MOTION),
            )
        return timedelta(seconds=due - now) if due > now else None

    def pop_changes(self, key: Key) -> list[Change]:
        """What is told now, and needs to be told no more."""
        item = self._pending.pop(key, None)
        return item.changes if item else []
