"""Whether the collector takes what a pod would send it: asked by `streamconsumer doctor`."""

import logging
from collections.abc import Mapping

TIMEOUT_SECONDS = 3.0
"""Tries included: a connection that is refused is tried again within it."""

EMPTY_REQUEST = b""
"""An export request without any span: a collector takes it as any other, and stores nothing."""


def traces_endpoint(environ: Mapping[str, str]) -> str | None:
    """Where spans go, or None where they go nowhere."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rstrip("/")
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (f"{base}/v1/traces" if base else None)


def probe_collector() -> str:
    """Send nothing by the way that spans take, with the variables of this process. Why it was not taken, or nothing."""
    # The SDK costs a second of start-up, and has the variables for certificates, headers and compression.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what it would log is what is returned
    exporter = OTLPSpanExporter(timeout=TIMEOUT_SECONDS)
    try:
        answer = exporter._client.export(EMPTY_REQUEST)  # noqa: SLF001 - as in `sdk`: the way that our spans take
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call] # ships no types for it
    if answer.success:
        return ""
    if answer.status_code is not None:
        return f"it answered {answer.status_code} {answer.reason or ''}".rstrip()
    return f"no answer: {' '.join(str(answer.error).split())}" if answer.error else "no answer"
