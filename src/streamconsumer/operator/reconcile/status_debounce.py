"""Debounce of status writes: one write per change, after the consequences of the change have been observed.

The Deployment controller, the scheduler and the kubelet each react to a Deployment write with an update. Without the
debounce, each update would cause a status write, and most of the statuses would be outdated before a user reads them.
The status write also waits until the Deployment controller has reacted. Before this reaction, the Deployment's status
describes the pods as they were before the write. If no Deployment controller has ever reacted, the status write does
not wait for a reaction.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

QUIET_PERIOD = timedelta(seconds=1)
"""A change counts as settled if no update has followed for this time."""

BASELINE_IN_MOTION = 20
"""If more StreamConsumers than this number have pending changes, the quiet period grows in proportion to the number of
these StreamConsumers. With many pending changes, the controllers react later to each StreamConsumer."""

MAX_DELAY = timedelta(seconds=5)
"""The status is written no later than this time after the first change, even if updates continue. The limit is needed
because a rollout may take an hour."""


@dataclass(frozen=True)
class Change:
    """A change to a child, described by the reason and the message of an Event."""

    reason: str
    message: str


@dataclass
class PendingChanges:
    """Changes to the children of one StreamConsumer. The status of the StreamConsumer does not show these changes
    yet."""

    changes: list[Change] = field(default_factory=list)
    first_seconds: float = 0.0
    """The time of the first change."""
    last_moved_seconds: float = 0.0
    """The time of the last change, or of the last update that a change has caused."""
    snapshot: object = None
    """The observed state at the time `last_moved_seconds`."""

    def pop(self) -> list[Change]:
        """Remove all changes, and return the removed changes."""
        changes, self.changes, self.snapshot = self.changes, [], None
        return changes


@dataclass
class StatusDebounce:
    """Decides when the status of a StreamConsumer with pending changes is written."""

    quiet_period: timedelta = QUIET_PERIOD
    max_delay: timedelta = MAX_DELAY
    clock: Callable[[], float] = time.monotonic
    _has_controllers: bool = False
    """True if a Deployment controller has reacted to at least one Deployment."""

    def add(self, pending: PendingChanges, changes: list[Change]) -> None:
        """Add changes to children, which a reconcile has just made, to those that the status does not show yet."""
        if changes:
            now = self.clock()
            if not pending.changes:
                pending.first_seconds = now
            pending.last_moved_seconds = now
            pending.changes += changes

    def delay(
        self, pending: PendingChanges, snapshot: object, *, is_observed: bool, in_motion: Callable[[], int]
    ) -> timedelta | None:
        """Return the time to wait before the status is written, or None if the status can be written now.

        `snapshot` is the observed state. `is_observed` is True if the Deployment controller has seen the last write.
        `in_motion` returns the number of StreamConsumers with pending changes."""
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
