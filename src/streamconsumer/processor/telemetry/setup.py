"""Set-up of tracing from the OTEL_ variables, with the SDK's meanings."""

from collections.abc import Mapping
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.span_recorder import SpanRecorder
from streamconsumer.processor.telemetry.startup_span import create_startup_span

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def telemetry_from_env(
    environ: Mapping[str, str],
    *,
    metrics: Metrics | None = None,
    startup_name: str = "",
    **options: Any,
) -> SpanRecorder | None:
    """Build a span recorder. Returns None, and loads no SDK, if the variables set no endpoint.

    `startup_name` names the span of the process' start; if empty, the start is not recorded. `options` are passed to
    `SpanRecorder`. Raises InvalidSettings for OTEL_CONFIG_FILE.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if file := environ.get("OTEL_CONFIG_FILE"):
        raise InvalidSettings(
            f"OTEL_CONFIG_FILE is {file!r}: found a configuration file, expected OTEL_ variables; a file would replace "
            "them all, and its processors and exporters are not supported here. Remove OTEL_CONFIG_FILE and set "
            "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and the other variables instead"
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
        sampler=sampler,
        exception_queue=exceptions,
        startup_span=create_startup_span(startup_name, sampler) if startup_name else None,
        shutdown=provider.shutdown,
        **options,
    )


def _is_enabled(environ: Mapping[str, str], signal: str) -> bool:
    """Return whether an endpoint is set, for all signals or this signal, and the signal's exporter is not `none`."""
    endpoint = environ.get(ENDPOINT_VARIABLE) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return bool(endpoint) and environ.get(f"OTEL_{signal}_EXPORTER") != "none"
