"""Spans, exception records and metrics over OTLP. No other package of the processor imports OpenTelemetry.

`semconv` defines the attribute names, and `trace_context` parses the producer's trace context. `sampling` decides
whether a span is recorded, and `trace_identity` computes the ids of spans that other processes record. `otlp_encoding`
encodes spans, `export_queue` sends encoded spans, and `exception_logs` records exceptions. Only `otlp_sdk`,
`otlp_metrics` and `collector_probe` use OpenTelemetry's SDK. These modules import the SDK only if an endpoint is set.
Without an endpoint, telemetry adds no cost to a message.

| span | kind | recorded when |
|---|---|---|
| `process S` | CONSUMER | a handler is called |
| `claim S` | CLIENT | entries of another consumer were claimed |
| `ack S` | CLIENT | Redis replied to XACK, and an acknowledged message is sampled |
| `send S:dead-letters` | PRODUCER | a message was dead-lettered |
"""

from streamconsumer.processor.telemetry.message_tracing import MessageTracing
from streamconsumer.processor.telemetry.propagation import current_trace, current_traceparent, inject, sending
from streamconsumer.processor.telemetry.setup import telemetry_from_env
from streamconsumer.processor.telemetry.span_recorder import FLUSH_BUDGET, SpanRecorder
from streamconsumer.processor.telemetry.tracer_provider import TracerProviderTracing

__all__ = [
    "FLUSH_BUDGET",
    "MessageTracing",
    "SpanRecorder",
    "TracerProviderTracing",
    "current_trace",
    "current_traceparent",
    "inject",
    "sending",
    "telemetry_from_env",
]
