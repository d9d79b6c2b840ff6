"""OpenTelemetry's SDK, from the environment: for the spans that handlers make, and for the way to the collector.

Ours are sent by the client of the SDK's own exporter, which knows endpoint, headers, compression, certificates,
time-outs and when to try again, from the variables that everybody knows. It is not public; a test sends through it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY  # as the SDK's own thread does
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter  # where the SDK keeps it, too
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from streamconsumer import __version__
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry import semconv
from streamconsumer.processor.telemetry.export_queue import ExportQueue, int_from_env
from streamconsumer.processor.telemetry.otlp_encoding import ExportRequest

# The SDK's queue of 2048 spans overflows within a second of a busy pod; bounded all the same, at about 30 MB.
QUEUE_SPANS, BATCH_SPANS, EXPORT_DELAY_MILLISECONDS = 8192, 512, 1000

QUEUE_RECORDS = 2048
"""As in the SDK. With its stack one has up to 20 kB, and where one message fails, others fail of the same."""


def build_tracer_provider(environ: Mapping[str, str]) -> TracerProvider:
    """For what the handler traces, which goes the same way. The SDK raises where a batch is larger than the queue: not
    even a wrong number keeps a pod from starting."""
    most = int_from_env(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS)
    made = TracerProvider(shutdown_on_exit=False, span_limits=SpanLimits())  # its own hook would wait 30 s
    made.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(),
            max_queue_size=most,
            max_export_batch_size=min(most, int_from_env(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS)),
            schedule_delay_millis=int_from_env(environ, "OTEL_BSP_SCHEDULE_DELAY", EXPORT_DELAY_MILLISECONDS),
        )
    )
    trace.set_tracer_provider(made)
    return made


def span_queue(environ: Mapping[str, str], provider: TracerProvider, metrics: Metrics | None) -> ExportQueue:
    """For ours."""
    exporter = OTLPSpanExporter()
    return ExportQueue.from_env(environ, _sender(exporter, provider), exporter.shutdown, metrics)


def exception_queue(environ: Mapping[str, str], provider: TracerProvider, metrics: Metrics | None) -> ExportQueue:
    """For the log records of what was raised."""
    exporter = OTLPLogExporter()
    bounds: dict[str, Any] = {"variables": "OTEL_BLRP", "max_size": QUEUE_RECORDS, "counter": "exceptions_dropped"}
    return ExportQueue.from_env(environ, _sender(exporter, provider), exporter.shutdown, metrics, **bounds)


def _sender(
    exporter: OTLPSpanExporter | OTLPLogExporter, provider: TracerProvider
) -> Callable[[Sequence[bytes]], bool]:
    request = ExportRequest(provider.resource.attributes, semconv.SCOPE, __version__, semconv.SCHEMA_URL)

    def send(parts: Sequence[bytes]) -> bool:
        token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            return exporter._client.export(request.encode(parts)).success  # noqa: SLF001 - the docstring says why
        finally:
            context.detach(token)

    return send
