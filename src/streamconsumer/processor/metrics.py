"""The figures of one processor, and how Prometheus reads them; `telemetry/figures.py` sends the same to a collector.

Plain integers, added to per batch or per message and read only when somebody asks: a metrics library in the loop
would cost more than the loop.
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
"""The bounds that OpenTelemetry advises for messaging.process.duration."""

QUEUE_BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Up to an hour: entries wait for consumers as long as it takes."""

FIRST_BUCKET_SECONDS = BUCKETS_SECONDS[0]


def _counter(description: str, otel_name: str = "", unit: str = "{message}") -> Any:
    """A counter; `otel_name` where it is not the field's own under `streamconsumer.`."""
    return field(default=0, metadata={"description": description, "otel_name": otel_name, "unit": unit})


@dataclass(slots=True)
class Histogram:
    """How many values were at most each bound, one more for what is larger, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """The value was seen so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@dataclass(slots=True)
class Metrics:
    """Counters by their own names; `in_flight` and the durations beside them."""

    reads: int = _counter("How many times entries were asked for", unit="{read}")
    delivered: int = _counter(
        "How many entries were taken in, redelivered ones included", "messaging.client.consumed.messages"
    )
    redelivered: int = _counter("How many entries this consumer had begun before and was given again")
    claimed: int = _counter("How many entries were taken over because they showed no sign of life")
    acknowledged: int = _counter("How many entries Redis confirmed as acknowledged")
    acknowledgements_lost: int = _counter("How many acknowledgements found nothing pending: the group was gone")
    failed: int = _counter("How many messages failed in the handler or could not be decoded")
    retried: int = _counter("How many failures will be tried again")
    dead_lettered: int = _counter("How many messages became dead letters")
    breaker_opened: int = _counter(
        "How many times so many messages failed in a row that no more were begun", unit="{opening}"
    )
    lost_ownership: int = _counter("How many messages another consumer took over while they ran here")
    lost_to_trimming: int = _counter("How many entries were trimmed from the stream while pending")
    trimmed: int = _counter("How many entries the retention trimmed from the stream")
    released: int = _counter("How many entries were handed back unbegun")
    abandoned: int = _counter("How many messages still ran when the drain time was over; they run again elsewhere")
    groups_recreated: int = _counter("How many times the consumer group was gone and created again", unit="{group}")
    redis_errors: int = _counter("How many times Redis failed the loop", unit="{fault}")
    spans_dropped: int = _counter("How many spans were recorded and never reached the collector", unit="{span}")
    exceptions_dropped: int = _counter(
        "How many log records of what handlers raised never reached the collector", unit="{record}"
    )
    count_in_flight: Callable[[], int] = field(default=int)
    duration_counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    duration_sum_seconds: float = 0.0
    queue: Histogram = field(default_factory=lambda: Histogram(QUEUE_BUCKETS_SECONDS))
    """How long entries had been in the stream when they were first read."""

    @property
    def duration(self) -> Histogram:
        """How long handlers took, as of now."""
        found = Histogram(BUCKETS_SECONDS)
        found.counts, found.sum = list(self.duration_counts), self.duration_sum_seconds
        return found

    @property
    def in_flight(self) -> int:
        """How many messages are being handled."""
        return self.count_in_flight()

    def record_duration(self, seconds: float) -> None:
        """A handler returned or raised after so long."""
        self.duration_counts[0 if seconds <= FIRST_BUCKET_SECONDS else bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.duration_sum_seconds += seconds

    @property
    def handler_calls(self) -> int:
        """How many times a handler returned or raised."""
        return sum(self.duration_counts)

    def record_queue_time(self, count: int, first_id: str, last_id: str) -> None:
        """So many new entries were read, in the order of their ids. An id begins with the server's milliseconds.

        The entries between are taken to be spread evenly: what one read brings was added close together, and a look
        at each id would cost as much as the whole table in flight."""
        now_milliseconds = time.time() * 1000
        oldest = max(0.0, now_milliseconds - int(first_id.partition("-")[0])) / 1000
        newest = max(0.0, now_milliseconds - int(last_id.partition("-")[0])) / 1000
        bounds = self.queue.bounds
        if count == 1 or bisect_left(bounds, oldest) == bisect_left(bounds, newest):
            self.queue.add((oldest + newest) / 2, count)
            return
        step = (oldest - newest) / (count - 1)
        for number in range(count):
            self.queue.add(newest + number * step)

    def counters(self) -> dict[str, int]:
        """Every counter by its name."""
        names = [each.name for each in fields(self) if "description" in each.metadata]
        return {name: getattr(self, name) for name in names}


class PrometheusCollector:
    """Metrics as a Prometheus collector, under fixed labels."""

    def __init__(self, metrics: Metrics, labels: dict[str, str]) -> None:
        self._metrics, self._label_names, self._label_values = metrics, list(labels), list(labels.values())

    def collect(self) -> Iterator[Metric]:
        for each in fields(Metrics):
            if "description" in each.metadata:
                counter = CounterMetricFamily(
                    f"{PREFIX}_{each.name}", each.metadata["description"], labels=self._label_names
                )
                counter.add_metric(self._label_values, getattr(self._metrics, each.name))
                yield counter
        gauge = GaugeMetricFamily(
            f"{PREFIX}_in_flight", "How many messages are being handled", labels=self._label_names
        )
        gauge.add_metric(self._label_values, self._metrics.in_flight)
        yield gauge
        yield self._histogram(
            "process_duration",
            "How long a handler took with one message, or one batch",
            self._metrics.duration,
        )
        yield self._histogram(
            "queue_duration",
            "How long an entry had been in the stream when it was first read",
            self._metrics.queue,
        )

    def _histogram(self, name: str, description: str, histogram: Histogram) -> Metric:
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(histogram.counts), strict=True)]
        family = HistogramMetricFamily(f"{PREFIX}_{name}_seconds", description, labels=self._label_names)
        family.add_metric(self._label_values, buckets=buckets, sum_value=histogram.sum)
        return family


def build_registry(metrics: Metrics, labels: dict[str, str]) -> CollectorRegistry:
    """A registry of its own: nothing a handler registers globally gets in the way."""
    own = CollectorRegistry()
    own.register(PrometheusCollector(metrics, labels))
    return own
