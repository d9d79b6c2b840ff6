"""The figures of one processor on their way to a collector, over OTLP.

They are plain integers (`metrics.py`); once an interval a thread makes OpenTelemetry's data of them and hands it to
the SDK's exporter. No instrument of the SDK is in the loop: recording into one costs 16 µs a message.
Names and units follow the semantic conventions for messaging 1.44; what those do not know is under `streamconsumer.`.
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
"""What the SDK takes where the variable is not set."""

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]


class TimeRange(NamedTuple):
    """From when and to when was counted, in nanoseconds since 1970."""

    start_ns: int
    end_ns: int


class MetricsExporter:
    """Sends the figures once an interval, and once more at the end."""

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
        self._thread = threading.Thread(target=self._run, name="figures", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin to send what was counted last."""
        self._stop.set()

    def join(self, seconds: float) -> bool:
        """Wait until it is sent, for so long at most. Whether it is, or was given up by the exporter."""
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
        except Exception:  # a collector's trouble is never the messages'
            log.warning("figures not sent", exc_info=True)


def exporter_from_env(
    environ: Mapping[str, str], metrics: Metrics, attributes: Callable[[], Attributes]
) -> MetricsExporter | None:
    """Over OTLP/HTTP where the OTEL_ variables name an endpoint; None, and no SDK, otherwise."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_METRICS_EXPORTER") == "none"
    if off or not any(environ.get(name) for name in ENDPOINT_VARIABLES):
        return None
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - costs start-up

    return MetricsExporter(metrics, attributes, OTLPMetricExporter(), _interval_seconds(environ))


def _interval_seconds(environ: Mapping[str, str]) -> float:
    text = environ.get(INTERVAL_VARIABLE, "")
    if text.isdigit() and int(text) > 0:
        return int(text) / 1000
    if text:
        log.warning("%s is %r: expected milliseconds; %d is taken", INTERVAL_VARIABLE, text, INTERVAL_MILLISECONDS)
    return INTERVAL_MILLISECONDS / 1000


def snapshot(metrics: Metrics, attributes: Attributes, start_ns: int, end_ns: int) -> "MetricsData":
    """All figures as they stand; `began` and `now` in nanoseconds since 1970."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics  # noqa: PLC0415 - as above
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415 - as above

    scope = InstrumentationScope(SCOPE, __version__, SCHEMA_URL)
    told = list(_otlp_metrics(metrics, attributes, TimeRange(start_ns, end_ns)))
    return MetricsData([ResourceMetrics(Resource.create(), [ScopeMetrics(scope, told, SCHEMA_URL)], SCHEMA_URL)])


def _otlp_metrics(metrics: Metrics, attributes: Attributes, times: TimeRange) -> "Iterator[Metric]":
    from opentelemetry.sdk.metrics import export  # noqa: PLC0415 - as above

    cumulative = export.AggregationTemporality.CUMULATIVE

    def number(value: int, operation: str, *, rises: bool) -> Any:
        about = {**attributes, OPERATION_NAME: operation} if operation else attributes
        point = export.NumberDataPoint(
            attributes=about, value=value, start_time_unix_nano=times.start_ns, time_unix_nano=times.end_ns
        )
        return export.Sum([point], cumulative, is_monotonic=rises)

    def histogram(found: Histogram, more: Attributes) -> Any:
        about, counts = {**attributes, **more}, list(found.counts)
        point = export.HistogramDataPoint(
            attributes=about,
            count=sum(counts),
            sum=found.sum,
            bucket_counts=counts,
            explicit_bounds=found.bounds,
            min=None,  # type: ignore[arg-type] # optional on the wire, and not kept
            max=None,  # type: ignore[arg-type] # as above
            start_time_unix_nano=times.start_ns,
            time_unix_nano=times.end_ns,
        )
        return export.Histogram([point], cumulative)

    for each in fields(Metrics):
        if told := each.metadata:
            name = told["otel_name"] or f"streamconsumer.{each.name}"
            operation = "receive" if told["otel_name"] else ""
            value = number(getattr(metrics, each.name), operation, rises=True)
            yield export.Metric(name, told["description"], told["unit"], value)
    in_flight = number(metrics.in_flight, "", rises=False)
    yield export.Metric("streamconsumer.in_flight", "How many messages are being handled", "{message}", in_flight)
    process = {OPERATION_NAME: "process"}
    duration = histogram(metrics.duration, process)
    yield export.Metric("messaging.process.duration", "How long a handler took with one message", "s", duration)
    queued = histogram(metrics.queue_duration, {})
    description = "How long an entry had been in the stream when it was first read"
    yield export.Metric("streamconsumer.queue.duration", description, "s", queued)
