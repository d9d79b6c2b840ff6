"""Test export for `streamconsumer doctor`, which checks whether the collector accepts spans from this pod."""

import logging
from collections.abc import Mapping

TIMEOUT_SECONDS = 3.0
"""Time limit of the test export, including retries after a refused connection."""

EMPTY_REQUEST = b""
"""Export request without spans, which a collector accepts without storing data."""


def traces_endpoint(environ: Mapping[str, str]) -> str | None:
    """Return the URL that spans are sent to, or None if spans are not exported."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/")
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (f"{base}/v1/traces" if base else None)


def probe_collector() -> str:
    """Send an empty export request, as configured by the OTEL_ environment variables of this process.

    Returns the reason why the collector did not accept the request, or an empty string if the collector accepted it.
    """
    # The SDK adds a second to the start. It reads the variables for certificates, headers and compression.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the caller gets the error as the return value
    exporter = OTLPSpanExporter(timeout=TIMEOUT_SECONDS)
    try:
        result = exporter._client.export(EMPTY_REQUEST)  # noqa: SLF001 - the client that `otlp_sdk` sends spans with
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call] # has no type annotations
    if result.success:
        return ""
    if result.status_code is not None:
        return f"the collector responded {result.status_code} {result.reason or ''}".rstrip()
    return f"no response: {' '.join(str(result.error).split())}" if result.error else "no response"
