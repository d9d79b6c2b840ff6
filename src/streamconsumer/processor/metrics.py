"""The figures of one processor, and how Prometheus reads them.

Plain integers, added to per batch or per message and read only when somebody asks: a metrics library in the loop
would cost more than the loop.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

PREFIX = "streamconsumer"
BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The bounds that OpenTelemetry advises for messaging.process.duration."""

SHORTEST = BUCKETS_SECONDS[0]


def _counter(description: str) -> Any:
    return field(default=0, metadata={"description": description})


@dataclass(slots=True)
class Metrics:
    """Counters by their own names; `in_flight` and the durations beside them."""

    reads: int = _counter("How many times entries were asked for")
    delivered: int = _counter("How many entries were taken in, redelivered ones included")
    redelivered: int = _counter("How many entries this consumer had begun before and was given again")
    claimed: int = _counter("How many entries were taken over because they showed no sign of life")
    acknowledged: int = _counter("How many entries Redis confirmed as acknowledged")
    acknowledgements_lost: int = _counter("How many acknowledgements found nothing pending: the group was gone")
    failed: int = _counter("How many messages failed in the handler or could not be decoded")
    retried: int = _counter("How many failures will be tried again")
    dead_lettered: int = _counter("How many messages became dead letters")
    breaker_opened: int = _counter("How many times so many messages failed in a row that no more were begun")
    lost_ownership: int = _counter("How many messages another consumer took over while they ran here")
    lost_to_trimming: int = _counter("How many entries were trimmed from the stream while pending")
    trimmed: int = _counter("How many entries the retention trimmed from the stream")
    released: int = _counter("How many entries were handed back unbegun")
    groups_recreated: int = _counter("How many times the consumer group was gone and created again")
    faults: int = _counter("How many times Redis failed the loop")
    count_in_flight: Callable[[], int] = field(default=int)
    duration_counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    duration_sum_seconds: float = 0.0
    handled_count: int = 0

    @property
    def in_flight(self) -> int:
        """How many messages are being handled."""
        return self.count_in_flight()

    def handled(self, seconds: float) -> None:
        """A handler returned or raised after so long."""
        self.duration_counts[0 if seconds <= SHORTEST else bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.duration_sum_seconds += seconds
        self.handled_count += 1

    def counters(self) -> dict[str, int]:
        """Every counter by its name."""
        names = [each.name for each in fields(self) if "description" in each.metadata]
        return {name: getattr(self, name) for name in names}


class Exposition:
    """Metrics as a Prometheus collector, under fixed labels."""

    def __init__(self, metrics: Metrics, labels: dict[str, str]) -> None:
        self._metrics, self._names, self._values = metrics, list(labels), list(labels.values())

    def collect(self) -> Iterator[Metric]:
        for each in fields(Metrics):
            if "description" in each.metadata:
                counter = CounterMetricFamily(f"{PREFIX}_{each.name}", each.metadata["description"], labels=self._names)
                counter.add_metric(self._values, getattr(self._metrics, each.name))
                yield counter
        gauge = GaugeMetricFamily(f"{PREFIX}_in_flight", "How many messages are being handled", labels=self._names)
        gauge.add_metric(self._values, self._metrics.in_flight)
        yield gauge
        yield self._durations()

    def _durations(self) -> Metric:
        cumulative, buckets = 0, []
        for bound, count in zip([*map(str, BUCKETS_SECONDS), "+Inf"], self._metrics.duration_counts, strict=True):
            cumulative += count
            buckets.append((bound, float(cumulative)))
        histogram = HistogramMetricFamily(
            f"{PREFIX}_process_duration_seconds",
            "How long a handler took with one message, or one batch",
            labels=self._names,
        )
        histogram.add_metric(self._values, buckets=buckets, sum_value=self._metrics.duration_sum_seconds)
        return histogram


def registry(metrics: Metrics, labels: dict[str, str]) -> CollectorRegistry:
    """A registry of its own: nothing a handler registers globally gets in the way."""
    own = CollectorRegistry()
    own.register(Exposition(metrics, labels))
    return own
