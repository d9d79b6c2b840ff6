"""Trace propagation for producers: the context is in plain entry fields, which programs in any language can write."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from streamconsumer import __version__
from streamconsumer.processor.telemetry import semconv
from streamconsumer.processor.telemetry.spans import record_failure


def current_trace() -> dict[str, str]:
    """Return the ids of the current span for a log line. Returns an empty dict if there is no current span."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(current.trace_id),
        "span_id": trace.format_span_id(current.span_id),
        "trace_flags": f"{current.trace_flags:02x}",
    }


def current_traceparent() -> str:
    """Return the `traceparent` of the current span. Returns an empty string if there is no current span."""
    current = trace.get_current_span().get_span_context()
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}" if current.is_valid else ""


def inject(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy of the fields, with the current span's `traceparent` and `tracestate` added.

    A context that the fields already contain is kept, because the context must identify the producer of the message,
    not a program that forwards the message.
    """
    traceparent = current_traceparent()
    if not traceparent or "traceparent" in fields or b"traceparent" in fields:
        return dict(fields)
    state = trace.get_current_span().get_span_context().trace_state.to_header()
    return {**fields, "traceparent": traceparent, **({"tracestate": state} if state else {})}


@contextmanager
def sending(stream: str, fields: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
    """Record a PRODUCER span around the block and yield the fields with the span's context.

    Use: `with sending("orders", fields) as carried: client.xadd("orders", carried)`. The span goes to the process'
    global tracer provider. If no provider is set but there is a current context, the fields get this context.
    """
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
