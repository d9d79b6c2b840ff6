"""For those who add messages: the trace goes along as plain fields of the entry, which any language can write."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from streamconsumer import __version__
from streamconsumer.processor.telemetry import semconv
from streamconsumer.processor.telemetry.spans import record_failure


def current_trace() -> dict[str, str]:
    """The ids of the current span for a log line; empty outside of one."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(found.trace_id),
        "span_id": trace.format_span_id(found.span_id),
        "trace_flags": f"{found.trace_flags:02x}",
    }


def current_traceparent() -> str:
    """The current span in the form in which it travels; empty outside of one."""
    found = trace.get_current_span().get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else ""


def inject(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    """The fields with the current span's `traceparent` and `tracestate`. A message that carries a context keeps it:
    it says where the message was made, and whoever passes it on did not."""
    here = current_traceparent()
    if not here or "traceparent" in fields or b"traceparent" in fields:
        return dict(fields)
    state = trace.get_current_span().get_span_context().trace_state.to_header()
    return {**fields, "traceparent": here, **({"tracestate": state} if state else {})}


@contextmanager
def sending(stream: str, fields: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
    """`with sending("orders", fields) as carried: client.xadd("orders", carried)`: a PRODUCER span around it, and the
    fields with its context. Goes to the process' own tracer provider; without one it only injects."""
    attributes = {
        semconv.SYSTEM: "redis",
        semconv.OPERATION_NAME: "send",
        semconv.OPERATION_TYPE: "send",
        semconv.DESTINATION: stream,
    }
    tracer = trace.get_tracer(semconv.SCOPE, __version__, schema_url=semconv.SCHEMA_URL)
    span = tracer.start_span(f"send {stream}", kind=SpanKind.PRODUCER, attributes=attributes)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield inject(fields)
    except BaseException as error:
        record_failure(span, error)
        raise
    finally:
        span.end()
