"""How fast entries come, and how fast one pod handles them, from what Redis counts. Pure.

A backlog alone cannot tell how many pods keep up: with enough of them it is next to nothing, which looks like work for
one. A pod's pace can only be seen while there is more to do than the pods do; at other times it is at least what they
did. So it is measured then, kept, and doubted a little more every second, until it is measured again.
"""

import math
from dataclasses import dataclass, replace

ARRIVAL_WINDOW_SECONDS = 300.0
"""What comes is averaged over this time: long enough for slow streams, and bursts are the backlog's affair."""
HALF_LIFE_SECONDS = 120.0
"""After so much time of measuring, half of a measurement is forgotten; one of few entries is not."""
MIN_ENTRIES = 10
CONFIDENCE_DECAY_SECONDS = 14400.0
"""Unmeasured for so long, a pace is taken for e times faster: one pod of three is tried without after an hour."""
POD_START_SECONDS = 10.0
"""A pod that was just asked for does not work yet."""
MAX_UTILIZATION = 0.8
"""Pods are only taken away if those that stay are busy for no more of their time."""


@dataclass(frozen=True)
class Sample:
    """What was counted at one moment."""

    at_seconds: float
    entries_read: int
    """Entries that the group was ever given."""
    unread: int
    pending: int
    pods: int
    """So many have been wanted since the look before."""

    @property
    def entries_added(self) -> int:
        return self.entries_read + self.unread

    @property
    def entries_done(self) -> int:
        return self.entries_read - self.pending


@dataclass(frozen=True)
class Throughput:
    """What is known so far."""

    samples: tuple[Sample, ...] = ()
    """As far back as arrivals are averaged."""
    measured_entries: float = 0.0
    measured_pod_seconds: float = 0.0

    def with_sample(self, sample: Sample | None, scaled_up_at_seconds: float) -> "Throughput":
        """With one more look; None where Redis did not tell all. More pods were asked for last at that moment."""
        before = self.samples[-1] if self.samples else None
        if (
            sample is None
            or before is None
            or sample.entries_added < before.entries_added
            or sample.entries_done < before.entries_done
        ):
            return replace(self, samples=(sample,) if sample else ())
        kept = tuple(each for each in self.samples if sample.at_seconds - each.at_seconds <= ARRIVAL_WINDOW_SECONDS)
        all_work = before.at_seconds >= scaled_up_at_seconds + POD_START_SECONDS
        measured = self._with_measurement(before, sample) if sample.pods and all_work else self
        return replace(measured, samples=(*kept, sample))

    def _with_measurement(self, previous: Sample, sample: Sample) -> "Throughput":
        seconds = sample.at_seconds - previous.at_seconds
        entries, pod_seconds = sample.entries_done - previous.entries_done, seconds * sample.pods
        if previous.unread > sample.pods and sample.unread > sample.pods:
            kept = 0.5 ** (seconds / HALF_LIFE_SECONDS) if self.measured_entries >= MIN_ENTRIES else 1.0
            return replace(
                self,
                measured_entries=self.measured_entries * kept + entries,
                measured_pod_seconds=self.measured_pod_seconds * kept + pod_seconds,
            )
        if self.per_pod_rate is None:  # whoever began to fall behind was busy for a part of the time at least
            behind = sample.unread > sample.pods
            return replace(self, measured_entries=entries, measured_pod_seconds=pod_seconds) if behind else self
        at_least = max(
            self.per_pod_rate * math.exp(seconds / CONFIDENCE_DECAY_SECONDS),
            entries / pod_seconds if pod_seconds else 0,
        )
        return replace(self, measured_entries=at_least * self.measured_pod_seconds)

    @property
    def per_pod_rate(self) -> float | None:
        """Entries a second that one pod handles; None until one was seen to."""
        return self.measured_entries / self.measured_pod_seconds if self.measured_entries else None

    @property
    def arrival_rate(self) -> float | None:
        """Entries a second; None before the second look."""
        if len(self.samples) < 2:
            return None
        first, last = self.samples[0], self.samples[-1]
        seconds = last.at_seconds - first.at_seconds
        return (last.entries_added - first.entries_added) / seconds if seconds else None

    def min_pods(self, current: int) -> int | None:
        """How many pods do what arrives; None: not known. As many as there are, where that is neither too few nor
        clearly too many."""
        if self.per_pod_rate is None or self.arrival_rate is None:
            return None
        pods = self.arrival_rate / self.per_pod_rate
        return min(max(current, math.ceil(pods)), math.ceil(pods / MAX_UTILIZATION))
