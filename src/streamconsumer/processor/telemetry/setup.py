"""What the OTEL_ variables say of traces, as the SDK reads them."""

from collections.abc import Mapping
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry import startup_span
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.span_recorder import SpanRecorder

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def telemetry_from_env(
    environ: Mapping[str, str],
    *,
    metrics: Metrics | None = None,
    startup_name: str = "",
    **options: Any,
) -> SpanRecorder | None:
    """None, and no SDK, where they name no endpoint. `starts`: the name of what begins with this process, if its start
    is to be recorded. Options as for `Telemetry`."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if file := environ.get("OTEL_CONFIG_FILE"):
        raise InvalidSettings(
            f"OTEL_CONFIG_FILE is {file!r}: a file would take the place of all OTEL_ variables, and what it may say of "
            "processors and exporters is not supported here; remove it and set OTEL_EXPORTER_OTLP_ENDPOINT, "
            "OTEL_TRACES_SAMPLER and so on instead"
        )
    if not _is_enabled(environ, "TRACES"):
        return None
    # The SDK costs a second of start-up: only who exports pays it.
    from streamconsumer.processor.telemetry import otlp_sdk  # noqa: PLC0415

    provider = otlp_sdk.build_tracer_provider(environ)
    exceptions = otlp_sdk.exception_queue(environ, provider, metrics) if _is_enabled(environ, "LOGS") else None
    sampling = Sampler.from_env(environ)
    start = startup_span.create_startup_span(startup_name, sampling) if startup_name else None
    options |= {"sampling": sampling, "exceptions": exceptions, "start": start, "shutdown": provider.shutdown}
    return SpanRecorder(otlp_sdk.span_queue(environ, provider, metrics), **options)


def _is_enabled(environ: Mapping[str, str], signal: str) -> bool:
    """Whether there is an endpoint, for all signals or for this one, and nobody said that it goes nowhere."""
    named = environ.get(ENDPOINT_VARIABLE) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return bool(named) and environ.get(f"OTEL_{signal}_EXPORTER") != "none"
