"""The current span, as it is told."""

from opentelemetry import trace


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
