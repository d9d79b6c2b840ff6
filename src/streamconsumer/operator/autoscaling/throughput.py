"""Arrival rate and throughput per pod, computed from the counters of Redis. The functions have no side effects.

The backlog alone does not show how many pods are required. If there are enough pods, the backlog is almost zero,
whether one pod or many pods are required. The throughput per pod can be measured only while there is a backlog. Without
a backlog, the measured value is only a lower bound. This module therefore measures the throughput during a backlog, and
keeps the result. Until the next measurement, the assumed throughput per pod grows slowly, because the old result
becomes less reliable.
"""

import math
from dataclasses import dataclass, replace

ARRIVAL_WINDOW_SECONDS = 300.0
"""Window over which the arrival rate is averaged. The window is long enough for streams with few entries. Bursts raise
the backlog, which is evaluated separately."""
HALF_LIFE_SECONDS = 120.0
"""A measurement has half of its original weight if the measurements after it have this duration in total."""
MIN_ENTRIES = 10
"""Earlier measurements keep their full weight until all measurements together cover this number of entries."""
CONFIDENCE_DECAY_SECONDS = 14400.0
"""Time without a measurement after which the assumed throughput has grown by the factor e.

For example, after one hour without a measurement, autoscaling may remove one of three pods, to find out whether two
pods are sufficient."""
POD_START_SECONDS = 10.0
"""Time after a scale-up during which samples are not used, because new pods are still starting."""
MAX_UTILIZATION = 0.8
"""When the arrival rate is low, autoscaling removes pods only if the utilization of the remaining pods does not exceed
this share."""


@dataclass(frozen=True)
class Sample:
    """Counters of the consumer group at one point in time."""

    at_seconds: float
    entries_read: int
    """Number of entries that were ever delivered to the group."""
    unread: int
    pending: int
    pods: int
    """Desired number of pods since the previous sample."""

    @property
    def entries_added(self) -> int:
        return self.entries_read + self.unread

    @property
    def entries_done(self) -> int:
        return self.entries_read - self.pending


@dataclass(frozen=True)
class Throughput:
    """Samples and measurements of one StreamConsumer."""

    samples: tuple[Sample, ...] = ()
    """Samples within the arrival window."""
    measured_entries: float = 0.0
    measured_pod_seconds: float = 0.0

    def with_sample(self, sample: Sample | None, scaled_up_at_seconds: float) -> "Throughput":
        """Return a copy with one more sample.

        `sample` is None if the probe did not report all counters. If `sample` is None or a counter has decreased, the
        earlier samples are discarded, but the measured throughput per pod is kept. `scaled_up_at_seconds` is the time
        of the last scale-up."""
        previous = self.samples[-1] if self.samples else None
        if (
            sample is None
            or previous is None
            or sample.entries_added < previous.entries_added
            or sample.entries_done < previous.entries_done
        ):
            return replace(self, samples=(sample,) if sample else ())
        recent = tuple(each for each in self.samples if sample.at_seconds - each.at_seconds <= ARRIVAL_WINDOW_SECONDS)
        all_started = previous.at_seconds >= scaled_up_at_seconds + POD_START_SECONDS
        measured = self._with_measurement(previous, sample) if sample.pods and all_started else self
        return replace(measured, samples=(*recent, sample))

    def _with_measurement(self, previous: Sample, sample: Sample) -> "Throughput":
        seconds = sample.at_seconds - previous.at_seconds
        entries, pod_seconds = sample.entries_done - previous.entries_done, seconds * sample.pods
        if previous.unread > sample.pods and sample.unread > sample.pods:
            weight = 0.5 ** (seconds / HALF_LIFE_SECONDS) if self.measured_entries >= MIN_ENTRIES else 1.0
            return replace(
                self,
                measured_entries=self.measured_entries * weight + entries,
                measured_pod_seconds=self.measured_pod_seconds * weight + pod_seconds,
            )
        if self.per_pod_rate is None:  # entries are left, so the pods were busy at least part of the time
            is_lagging = sample.unread > sample.pods
            return replace(self, measured_entries=entries, measured_pod_seconds=pod_seconds) if is_lagging else self
        rate = max(
            self.per_pod_rate * math.exp(seconds / CONFIDENCE_DECAY_SECONDS),
            entries / pod_seconds if pod_seconds else 0,
        )
        return replace(self, measured_entries=rate * self.measured_pod_seconds)

    @property
    def per_pod_rate(self) -> float | None:
        """Number of entries that one pod handles per second, or None before the first measurement."""
        return self.measured_entries / self.measured_pod_seconds if self.measured_entries else None

    @property
    def arrival_rate(self) -> float | None:
        """Number of entries that are added to the stream per second, or None before the second sample."""
        if len(self.samples) < 2:
            return None
        first, last = self.samples[0], self.samples[-1]
        seconds = last.at_seconds - first.at_seconds
        return (last.entries_added - first.entries_added) / seconds if seconds else None

    def min_pods(self, current: int) -> int | None:
        """Return the number of pods that can keep up with the arrival rate. Returns None if the arrival rate or the
        throughput is unknown.

        Returns `current` if two conditions hold: the current pods are sufficient, and with one pod fewer, the
        utilization would exceed MAX_UTILIZATION."""
        if self.per_pod_rate is None or self.arrival_rate is None:
            return None
        pods = self.arrival_rate / self.per_pod_rate
        return min(max(current, math.ceil(pods)), math.ceil(pods / MAX_UTILIZATION))
