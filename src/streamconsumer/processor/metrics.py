"""Metrics of one processor, exported to Prometheus. `telemetry.otlp_metrics` exports the same metrics over OTLP.

The consume loop increments plain integers, which the exporters read only when they need the values. A metrics library
in the loop would take more time than the loop itself.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

PREFIX = "streamconsumer"
BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bucket bounds that OpenTelemetry recommends for `messaging.process.duration`."""

QUEUE_BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Bucket bounds of the queue duration. The largest bound is one hour, because entries can wait a long time for a
consumer."""

FIRST_BUCKET_SECONDS = BUCKETS_SECONDS[0]


def _counter(description: str, otel_name: str = "", unit: str = "{message}") -> Any:
    """Declare a counter. If `otel_name` is empty, the name in OpenTelemetry is `streamconsumer.` followed by the field
    name."""
    return field(default=0, metadata={"description": description, "otel_name": otel_name, "unit": unit})


@dataclass(slots=True)
class Histogram:
    """Number of values in each bucket, and the sum of all values. The last bucket contains values above all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """Record `times` equal values."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@dataclass(slots=True)
class Metrics:
    """Counters, number of running messages, and histograms of durations."""

    reads: int = _counter("Reads of the stream", unit="{read}")
    delivered: int = _counter("Entries received, including redelivered entries", "messaging.client.consumed.messages")
    redelivered: int = _counter("Pending entries that this consumer received again after a restart or an error")
    claimed: int = _counter("Pending entries claimed from other consumers")
    acknowledged: int = _counter("Entries that Redis confirmed as acknowledged")
    acknowledgements_lost: int = _counter(
        "Acknowledgements of entries that were no longer pending, because the group was missing"
    )
    failed: int = _counter("Messages that failed in the handler or could not be decoded")
    retried: int = _counter("Failed messages that will be retried")
    deferred: int = _counter("Messages that the handler deferred; these messages have not failed")
    dead_lettered: int = _counter("Messages that became dead letters")
    breaker_opened: int = _counter("Times that the circuit breaker opened", unit="{opening}")
    lost_ownership: int = _counter("Messages in flight that another consumer claimed")
    lost_to_trimming: int = _counter("Entries that were trimmed from the stream while pending")
    trimmed: int = _counter("Entries that retention trimmed from the stream")
    released: int = _counter("Entries released before their handlers started")
    abandoned: int = _counter("Messages that were still running at the drain timeout and stayed pending")
    groups_recreated: int = _counter("Times that the missing consumer group was recreated", unit="{group}")
    redis_errors: int = _counter("Redis errors in the consume loop", unit="{error}")
    lease_renewals_failed: int = _counter("Failed renewals of the leases of messages in flight", unit="{renewal}")
    background_restarts: int = _counter("Background tasks restarted after an error", unit="{restart}")
    spans_dropped: int = _counter("Recorded spans that never reached the collector", unit="{span}")
    exceptions_dropped: int = _counter(
        "Log records of handler exceptions that never reached the collector", unit="{record}"
    )
    count_in_flight: Callable[[], int] = field(default=int)
    duration_counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    duration_sum_seconds: float = 0.0
    queue_duration: Histogram = field(default_factory=lambda: Histogram(QUEUE_BUCKETS_SECONDS))
    """How long entries were in the stream before their first read."""

    @property
    def duration(self) -> Histogram:
        """Copy of the histogram of handler durations."""
        histogram = Histogram(BUCKETS_SECONDS)
        histogram.counts, histogram.sum = list(self.duration_counts), self.duration_sum_seconds
        return histogram

    @property
    def in_flight(self) -> int:
        """Number of messages whose handlers are running."""
        return self.count_in_flight()

    def record_duration(self, seconds: float) -> None:
        """Record the duration of a handler that returned or raised."""
        self.duration_counts[0 if seconds <= FIRST_BUCKET_SECONDS else bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.duration_sum_seconds += seconds

    @property
    def handler_calls(self) -> int:
        """Number of handler calls that returned or raised."""
        return sum(self.duration_counts)

    def record_queue_time(self, count: int, first_id: str, last_id: str) -> None:
        """Record the queue times of `count` new entries, given the first and the last id.

        An id starts with the time in milliseconds at which the entry was added. The queue times of the entries between
        the first and the last are interpolated. Parsing each id would take as much time as all steps in the in-flight
        table."""
        now_milliseconds = time.time() * 1000
        oldest = max(0.0, now_milliseconds - int(first_id.partition("-")[0])) / 1000
        newest = max(0.0, now_milliseconds - int(last_id.partition("-")[0])) / 1000
        bounds = self.queue_duration.bounds
        if count == 1 or bisect_left(bounds, oldest) == bisect_left(bounds, newest):
            self.queue_duration.add((oldest + newest) / 2, count)
            return
        step = (oldest - newest) / (count - 1)
        for number in range(count):
            self.queue_duration.add(newest + number * step)

    def counters(self) -> dict[str, int]:
        """Return a dict of counter names and values."""
        names = [counter.name for counter in fields(self) if "description" in counter.metadata]
        return {name: getattr(self, name) for name in names}


class PrometheusCollector:
    """Prometheus collector that adds the same labels to every metric."""

    def __init__(self, metrics: Metrics, labels: dict[str, str]) -> None:
        self._metrics, self._label_names, self._label_values = metrics, list(labels), list(labels.values())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with their current values."""
        for declared in fields(Metrics):
            if "description" in declared.metadata:
                counter = CounterMetricFamily(
                    f"{PREFIX}_{declared.name}", declared.metadata["description"], labels=self._label_names
                )
                counter.add_metric(self._label_values, getattr(self._metrics, declared.name))
                yield counter
        gauge = GaugeMetricFamily(
            f"{PREFIX}_in_flight", "Messages whose handlers are running", labels=self._label_names
        )
        gauge.add_metric(self._label_values, self._metrics.in_flight)
        yield gauge
        yield self._histogram(
            "process_duration",
            "Duration of a handler call with one message or one batch",
            self._metrics.duration,
        )
        yield self._histogram(
            "queue_duration",
            "Time that an entry spent in the stream before its first read",
            self._metrics.queue_duration,
        )

    def _histogram(self, name: str, description: str, histogram: Histogram) -> Metric:
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(histogram.counts), strict=True)]
        family = HistogramMetricFamily(f"{PREFIX}_{name}_seconds", description, labels=self._label_names)
        family.add_metric(self._label_values, buckets=buckets, sum_value=histogram.sum)
        return family


def build_registry(metrics: Metrics, labels: dict[str, str]) -> CollectorRegistry:
    """Create a separate registry for the metrics, so that the metric names cannot conflict with names of the handler's
    own metrics."""
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(metrics, labels))
    return registry
