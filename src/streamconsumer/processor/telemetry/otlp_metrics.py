"""Export of a processor's metrics to a collector over OTLP.

The metrics are plain integers (`metrics.py`). Once per interval, a thread converts the metrics to OpenTelemetry's data
classes and passes the result to the SDK's exporter. The consume loop uses no instruments of the SDK, because recording
into an instrument costs 16 µs per message. Metrics that the OpenTelemetry semantic conventions 1.44 define for
messaging have the names and units of the conventions. All other metrics are named `streamconsumer.*`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from streamconsumer import __version__
from streamconsumer.processor.metrics import Histogram, Metrics
from streamconsumer.processor.telemetry.semconv import OPERATION_NAME, SCHEMA_URL, SCOPE

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric, MetricExporter, MetricsData

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
INTERVAL_VARIABLE = "OTEL_METRIC_EXPORT_INTERVAL"
INTERVAL_MILLISECONDS = 60_000
"""Default export interval, as in the SDK."""

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]


class TimeRange(NamedTuple):
    """Start and end of a cumulative count, in nanoseconds since 1970."""

    start_ns: int
    end_ns: int


class MetricsExporter:
    """Sends the metrics once per interval, and once more at the end."""

    def __init__(
        self,
        metrics: Metrics,
        attributes: Callable[[], Attributes],
        exporter: "MetricExporter",
        interval_seconds: float,
    ) -> None:
        self._metrics, self._attributes, self._exporter = metrics, attributes, exporter
        self.interval_seconds = interval_seconds
        self._start_ns = time.time_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Start the exporting thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after one final export. Does not wait for the export."""
        self._stop.set()

    def join(self, seconds: float) -> bool:
        """Wait at most `seconds` for the final export. Returns True if the exporter sent the metrics or gave up."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(self.interval_seconds):
            self._send()
        self._send()
        self._exporter.shutdown()

    def _send(self) -> None:
        try:
            self._exporter.export(snapshot(self._metrics, self._attributes(), self._start_ns, time.time_ns()))
        except Exception:  # a failing collector must not affect messages
            log.warning("failed to export metrics", exc_info=True)


def exporter_from_env(
    environ: Mapping[str, str], metrics: Metrics, attributes: Callable[[], Attributes]
) -> MetricsExporter | None:
    """Return an exporter over OTLP/HTTP. Returns None without loading the SDK if no endpoint is set."""
    is_disabled = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_METRICS_EXPORTER") == "none"
    )
    if is_disabled or not any(environ.get(name) for name in ENDPOINT_VARIABLES):
        return None
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - costs start-up

    return MetricsExporter(metrics, attributes, OTLPMetricExporter(), _interval_seconds(environ))


def _interval_seconds(environ: Mapping[str, str]) -> float:
    text = environ.get(INTERVAL_VARIABLE, "")
    if text.isdigit() and int(text) > 0:
        return int(text) / 1000
    if text:
        log.warning("invalid %s=%r (expected milliseconds); using %d", INTERVAL_VARIABLE, text, INTERVAL_MILLISECONDS)
    return INTERVAL_MILLISECONDS / 1000


def snapshot(metrics: Metrics, attributes: Attributes, start_ns: int, end_ns: int) -> "MetricsData":
    """Return the current values of all metrics. `start_ns` and `end_ns` are nanoseconds since 1970."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics  # noqa: PLC0415 - as above
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415 - as above

    scope = InstrumentationScope(SCOPE, __version__, SCHEMA_URL)
    values = list(_otlp_metrics(metrics, attributes, TimeRange(start_ns, end_ns)))
    return MetricsData([ResourceMetrics(Resource.create(), [ScopeMetrics(scope, values, SCHEMA_URL)], SCHEMA_URL)])


def _otlp_metrics(metrics: Metrics, attributes: Attributes, times: TimeRange) -> "Iterator[Metric]":
    from opentelemetry.sdk.metrics import export  # noqa: PLC0415 - as above

    cumulative = export.AggregationTemporality.CUMULATIVE

    def sum_of(value: int, operation: str, *, is_monotonic: bool) -> Any:
        point = export.NumberDataPoint(
            attributes={**attributes, OPERATION_NAME: operation} if operation else attributes,
            value=value,
            start_time_unix_nano=times.start_ns,
            time_unix_nano=times.end_ns,
        )
        return export.Sum([point], cumulative, is_monotonic=is_monotonic)

    def histogram_of(histogram: Histogram, extra_attributes: Attributes) -> Any:
        counts = list(histogram.counts)
        point = export.HistogramDataPoint(
            attributes={**attributes, **extra_attributes},
            count=sum(counts),
            sum=histogram.sum,
            bucket_counts=counts,
            explicit_bounds=histogram.bounds,
            min=None,  # type: ignore[arg-type] # optional in OTLP, and not recorded
            max=None,  # type: ignore[arg-type] # as above
            start_time_unix_nano=times.start_ns,
            time_unix_nano=times.end_ns,
        )
        return export.Histogram([point], cumulative)

    for counter in fields(Metrics):
        if metadata := counter.metadata:
            name = metadata["otel_name"] or f"streamconsumer.{counter.name}"
            operation = "receive" if metadata["otel_name"] else ""
            value = sum_of(getattr(metrics, counter.name), operation, is_monotonic=True)
            yield export.Metric(name, metadata["description"], metadata["unit"], value)
    in_flight = sum_of(metrics.in_flight, "", is_monotonic=False)
    yield export.Metric("streamconsumer.in_flight", "Messages whose handlers are running", "{message}", in_flight)
    duration = histogram_of(metrics.duration, {OPERATION_NAME: "process"})
    description = "Duration of a handler call with one message or one batch"
    yield export.Metric("messaging.process.duration", description, "s", duration)
    queue_duration = histogram_of(metrics.queue_duration, {})
    description = "Time that an entry spent in the stream before its first read"
    yield export.Metric("streamconsumer.queue.duration", description, "s", queue_duration)
