"""For those who add messages: the trace goes along as plain fields of the entry, which any language can write."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from streamconsumer import __version__
from streamconsumer.processor.telemetry import names
from streamconsumer.processor.telemetry.current import current_traceparent
from streamconsumer.processor.telemetry.spans import failed


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
        names.SYSTEM: "redis",
        names.OPERATION_NAME: "send",
        names.OPERATION_TYPE: "send",
        names.DESTINATION: stream,
    }
    tracer = trace.get_tracer(names.SCOPE, __version__, schema_url=names.SCHEMA_URL)
    span = tracer.start_span(f"send {stream}", kind=SpanKind.PRODUCER, attributes=attributes)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield inject(fields)
    except BaseException as error:
        failed(span, error)
        raise
    finally:
        span.end()
