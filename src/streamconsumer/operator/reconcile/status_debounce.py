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

SETTLES_AFTER = timedelta(seconds=1)
"""How long after a write, or after the last thing that followed from it, nothing more is expected."""

FEW = 20
"""Number of changed StreamConsumers above which the quiet time grows in proportion. With more of them, the controllers
answer each one later."""

TOLD_AFTER = timedelta(seconds=5)
"""After how long it is told all the same: a roll-out may take an hour."""


@dataclass(frozen=True)
class Change:
    """One write to a child: what was done, to what, and why as an Event's reason."""

    reason: str
    sentence: str


@dataclass
class _Item:
    """What was written of one StreamConsumer, and when something moved."""

    since: float
    moved: float
    found: object = None
    changes: list[Change] = field(default_factory=list)


@dataclass
class News:
    """Of each StreamConsumer what was written since the last report."""

    settles_after: timedelta = SETTLES_AFTER
    told_after: timedelta = TOLD_AFTER
    clock: Callable[[], float] = time.monotonic
    _somebody_answers: bool = False
    _items: dict[Key, _Item] = field(default_factory=dict)

    def add(self, key: Key, changes: list[Change]) -> None:
        """These were made now."""
        if changes:
            now = self.clock()
            item = self._items.setdefault(key, _Item(now, now))
            item.moved = now
            item.changes += changes

    def wait(self, key: Key, gist: object, *, answered: bool) -> timedelta | None:
        """How long to wait before what is found now, `gist`, is told; None: tell it. `answered` says whether that
        comes after what was written last."""
        self._somebody_answers |= answered
        if (item := self._items.get(key)) is None:
            return None
        now = self.clock()
        if (gist, answered) != item.found:
            item.found, item.moved = (gist, answered), now
        due = item.since + self.told_after.total_seconds()
        if answered or not self._somebody_answers:
            due = min(due, item.moved + self.settles_after.total_seconds() * max(1, len(self._items) / FEW))
        return timedelta(seconds=due - now) if due > now else None

    def take(self, key: Key) -> list[Change]:
        """What is told now, and needs to be told no more."""
        item = self._items.pop(key, None)
        return item.changes if item else []
