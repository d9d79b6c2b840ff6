"""OpenTelemetry's SDK, configured from the environment: the handlers' own spans and the connection to the collector.

The client of the SDK's exporter sends the processor's spans. The client takes endpoint, headers, compression,
certificates, timeouts and retries from the standard OTEL_ environment variables. The client is not a public interface
of the SDK, so a test checks that the client can send a request.
"""

from collections.abc import Callable, Mapping, Sequence

from opentelemetry import context, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY  # the SDK's own thread also uses this key
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter  # not a public module of the SDK
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from streamconsumer import __version__
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry import semconv
from streamconsumer.processor.telemetry.export_queue import ExportQueue, int_from_env
from streamconsumer.processor.telemetry.otlp_encoding import ExportRequest

QUEUE_SPANS, BATCH_SPANS, EXPORT_DELAY_MILLISECONDS = 8192, 512, 1000
"""Limits of the queue for the handlers' own spans. A full queue takes about 30 MB. In a busy pod, the SDK's queue of
2048 spans overflows within a second."""

QUEUE_RECORDS = 2048
"""Maximum number of log records in the queue, as in the SDK. A record with its stack takes up to 20 kB, and failures
often repeat."""


def build_tracer_provider(environ: Mapping[str, str]) -> TracerProvider:
    """Build the tracer provider for the handlers' own spans and set it as the global tracer provider.

    The SDK raises an exception if the batch size is larger than the queue. The batch size is limited to the size of the
    queue, so that a wrong value does not prevent a pod from starting.
    """
    queue_size = int_from_env(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS)
    provider = TracerProvider(shutdown_on_exit=False, span_limits=SpanLimits())  # the SDK's exit hook would wait 30 s
    provider.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(),
            max_queue_size=queue_size,
            max_export_batch_size=min(queue_size, int_from_env(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS)),
            schedule_delay_millis=int_from_env(environ, "OTEL_BSP_SCHEDULE_DELAY", EXPORT_DELAY_MILLISECONDS),
        )
    )
    trace.set_tracer_provider(provider)
    return provider


def span_queue(environ: Mapping[str, str], provider: TracerProvider, metrics: Metrics | None) -> ExportQueue:
    """Return the export queue for the processor's spans."""
    exporter = OTLPSpanExporter()
    return ExportQueue.from_env(environ, _sender(exporter, provider), exporter.shutdown, metrics)


def exception_queue(environ: Mapping[str, str], provider: TracerProvider, metrics: Metrics | None) -> ExportQueue:
    """Return the export queue for log records of exceptions."""
    exporter = OTLPLogExporter()
    return ExportQueue.from_env(
        environ,
        _sender(exporter, provider),
        exporter.shutdown,
        metrics,
        variables="OTEL_BLRP",
        max_size=QUEUE_RECORDS,
        counter="exceptions_dropped",
    )


def _sender(
    exporter: OTLPSpanExporter | OTLPLogExporter, provider: TracerProvider
) -> Callable[[Sequence[bytes]], bool]:
    request = ExportRequest(provider.resource.attributes, semconv.SCOPE, __version__, semconv.SCHEMA_URL)

    def send(parts: Sequence[bytes]) -> bool:
        token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            return exporter._client.export(request.encode(parts)).success  # noqa: SLF001 - see the module docstring
        finally:
            context.detach(token)

    return send
