"""Set-up of tracing from the OTEL_ environment variables, which have the same meaning as in the SDK."""

from collections.abc import Callable, Mapping

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.processor_settings import TraceContextSettings
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.span_recorder import SpanRecorder
from streamconsumer.processor.telemetry.startup_span import create_startup_span

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def telemetry_from_env(
    environ: Mapping[str, str],
    *,
    stream: str,
    consumer_group: str,
    consumer: str,
    server: Callable[[], tuple[str, int | None]],
    trace_context: TraceContextSettings | None = None,
    is_batch: bool = False,
    metrics: Metrics | None = None,
    startup_name: str = "",
) -> SpanRecorder | None:
    """Build a span recorder. Returns None without loading the SDK if the environment variables set no endpoint.

    `startup_name` is part of the name of the startup span. If `startup_name` is empty, no startup span is recorded.
    `metrics` counts dropped spans. The other parameters are those of `SpanRecorder`. Raises InvalidSettings if
    OTEL_CONFIG_FILE is set, because a configuration file replaces all OTEL_ variables and can name span processors and
    exporters that this package does not implement.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if file := environ.get("OTEL_CONFIG_FILE"):
        raise InvalidSettings(
            f"OTEL_CONFIG_FILE is {file!r}; this process does not support OpenTelemetry configuration files; remove "
            "OTEL_CONFIG_FILE, and set variables such as OTEL_EXPORTER_OTLP_ENDPOINT instead"
        )
    if not _is_enabled(environ, "TRACES"):
        return None
    # The SDK adds a second to the start: import it only if spans are exported.
    from streamconsumer.processor.telemetry import otlp_sdk  # noqa: PLC0415

    provider = otlp_sdk.build_tracer_provider(environ)
    exceptions = otlp_sdk.exception_queue(environ, provider, metrics) if _is_enabled(environ, "LOGS") else None
    sampler = Sampler.from_env(environ)
    return SpanRecorder(
        otlp_sdk.span_queue(environ, provider, metrics),
        stream=stream,
        consumer_group=consumer_group,
        consumer=consumer,
        server=server,
        sampler=sampler,
        trace_context=trace_context,
        is_batch=is_batch,
        exception_queue=exceptions,
        startup_span=create_startup_span(startup_name, sampler) if startup_name else None,
        shutdown=provider.shutdown,
    )


def _is_enabled(environ: Mapping[str, str], signal: str) -> bool:
    """Return whether a signal is exported.

    A signal is exported if an endpoint is set for all signals or for this signal, and if the exporter of the signal is
    not `none`.
    """
    endpoint = environ.get(ENDPOINT_VARIABLE) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return bool(endpoint) and environ.get(f"OTEL_{signal}_EXPORTER") != "none"
