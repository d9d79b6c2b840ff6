"""Debounce of status writes: one write per change, after the consequences of the change have been observed.

The Deployment controller, the scheduler and the kubelet each react to a Deployment write with an update. Without the
debounce, each update causes a status write, and most of these are outdated before a user reads them. Until the
Deployment controller has reacted, the Deployment still counts the pods of before the write, so the status waits for
that too. If no Deployment controller has ever reacted, the debounce does not wait for one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

QUIET_PERIOD = timedelta(seconds=1)
"""The time without an update after which a change counts as settled."""

BASELINE_IN_MOTION = 20
"""The number of StreamConsumers with pending changes above which the quiet period grows in proportion. With more of
them, the controllers react later to each one."""

MAX_DELAY = timedelta(seconds=5)
"""The time after which the status is written although updates continue: a rollout may take an hour."""


@dataclass(frozen=True)
class Change:
    """A write to a child, as the reason and the message of an Event."""

    reason: str
    message: str


@dataclass
class PendingChanges:
    """The changes of one StreamConsumer that its status does not show yet."""

    changes: list[Change] = field(default_factory=list)
    first_seconds: float = 0.0
    """The time of the first change."""
    last_moved_seconds: float = 0.0
    """The time of the last change or the last update that followed from it."""
    snapshot: object = None
    """The observed state at that time."""

    def pop(self) -> list[Change]:
        """Return the changes and start again without any."""
        changes, self.changes, self.snapshot = self.changes, [], None
        return changes


@dataclass
class StatusDebounce:
    """Decides when the status of a StreamConsumer with pending changes is written."""

    quiet_period: timedelta = QUIET_PERIOD
    max_delay: timedelta = MAX_DELAY
    clock: Callable[[], float] = time.monotonic
    _has_controllers: bool = False
    """True once a Deployment controller has reacted to any Deployment."""

    def add(self, pending: PendingChanges, changes: list[Change]) -> None:
        """Add changes that were made now."""
        if changes:
            now = self.clock()
            if not pending.changes:
                pending.first_seconds = now
            pending.last_moved_seconds = now
            pending.changes += changes

    def delay(
        self, pending: PendingChanges, snapshot: object, *, is_observed: bool, in_motion: Callable[[], int]
    ) -> timedelta | None:
        """Return the time to wait before the status is written, or None to write it now.

        `snapshot` is the observed state, `is_observed` is True if the Deployment controller has seen the last write.
        `in_motion` counts the StreamConsumers with pending changes."""
        self._has_controllers |= is_observed
        if not pending.changes:
            return None
        now = self.clock()
        if (snapshot, is_observed) != pending.snapshot:
            pending.snapshot, pending.last_moved_seconds = (snapshot, is_observed), now
        due = pending.first_seconds + self.max_delay.total_seconds()
        if is_observed or not self._has_controllers:
            quiet_seconds = self.quiet_period.total_seconds() * max(1, in_motion() / BASELINE_IN_MOTION)
            due = min(due, pending.last_moved_seconds + quiet_seconds)
        return timedelta(seconds=due - now) if due > now else None
