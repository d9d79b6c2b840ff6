"""How fast entries come, and how fast one pod handles them, from what Redis counts. Pure.

A backlog alone cannot tell how many pods keep up: with enough of them it is next to nothing, which looks like work for
one. A pod's pace can only be seen while there is more to do than the pods do; at other times it is at least what they
did. So it is measured then, kept, and doubted a little more every second, until it is measured again.
"""

import math
from dataclasses import dataclass, replace

ARRIVALS_SECONDS = 300.0
"""What comes is averaged over this time: long enough for slow streams, and bursts are the backlog's affair."""
FORGET_SECONDS = 120.0
"""After so much time of measuring, half of a measurement is forgotten; one of few entries is not."""
FEW_ENTRIES = 10
DOUBT_SECONDS = 14400.0
"""Unmeasured for so long, a pace is taken for e times faster: one pod of three is tried without after an hour."""
START_SECONDS = 10.0
"""A pod that was just asked for does not work yet."""
BUSY = 0.8
"""Pods are only taken away if those that stay are busy for no more of their time."""


@dataclass(frozen=True)
class Look:
    """What was counted at one moment."""

    at_seconds: float
    read: int
    """Entries that the group was ever given."""
    unread: int
    pending: int
    pods: int
    """So many have been wanted since the look before."""

    @property
    def added(self) -> int:
        return self.read + self.unread

    @property
    def done(self) -> int:
        return self.read - self.pending


@dataclass(frozen=True)
class Pace:
    """What is known so far."""

    looks: tuple[Look, ...] = ()
    """As far back as arrivals are averaged."""
    measured_entries: float = 0.0
    measured_pod_seconds: float = 0.0

    def after(self, look: Look | None, grown_at_seconds: float) -> "Pace":
        """With one more look; None where Redis did not tell all. More pods were asked for last at that moment."""
        before = self.looks[-1] if self.looks else None
        if look is None or before is None or look.added < before.added or look.done < before.done:
            return replace(self, looks=(look,) if look else ())
        kept = tuple(each for each in self.looks if look.at_seconds - each.at_seconds <= ARRIVALS_SECONDS)
        all_work = before.at_seconds >= grown_at_seconds + START_SECONDS
        measured = self._measured(before, look) if look.pods and all_work else self
        return replace(measured, looks=(*kept, look))

    def _measured(self, before: Look, look: Look) -> "Pace":
        seconds = look.at_seconds - before.at_seconds
        entries, pod_seconds = look.done - before.done, seconds * look.pods
        if before.unread > look.pods and look.unread > look.pods:
            kept = 0.5 ** (seconds / FORGET_SECONDS) if self.measured_entries >= FEW_ENTRIES else 1.0
            return replace(
                self,
                measured_entries=self.measured_entries * kept + entries,
                measured_pod_seconds=self.measured_pod_seconds * kept + pod_seconds,
            )
        if self.per_pod is None:  # whoever began to fall behind was busy for a part of the time at least
            behind = look.unread > look.pods
            return replace(self, measured_entries=entries, measured_pod_seconds=pod_seconds) if behind else self
        at_least = max(self.per_pod * math.exp(seconds / DOUBT_SECONDS), entries / pod_seconds if pod_seconds else 0)
        return replace(self, measured_entries=at_least * self.measured_pod_seconds)

    @property
    def per_pod(self) -> float | None:
        """Entries a second that one pod handles; None until one was seen to."""
        return self.measured_entries / self.measured_pod_seconds if self.measured_entries else None

    @property
    def arriving(self) -> float | None:
        """Entries a second; None before the second look."""
        if len(self.looks) < 2:
            return None
        first, last = self.looks[0], self.looks[-1]
        seconds = last.at_seconds - first.at_seconds
        return (last.added - first.added) / seconds if seconds else None

    def keeping_up(self, current: int) -> int | None:
        """How many pods do what arrives; None: not known. As many as there are, where that is neither too few nor
        clearly too many."""
        if self.per_pod is None or self.arriving is None:
            return None
        pods = self.arriving / self.per_pod
        return min(max(current, math.ceil(pods)), math.ceil(pods / BUSY))
