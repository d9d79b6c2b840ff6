"""The only user of OpenTelemetry: what a message's journey looks like to a collector.

| span | kind | when |
|---|---|---|
| `process S` | CONSUMER | a handler is called |
| `claim S` | CLIENT | entries of another consumer were taken over |
| `ack S` | CLIENT | XACK was answered, and what it acknowledged is sampled |
| `send S:dead-letters` | PRODUCER | a message became a dead letter |

`names` has every name, `context` reads what a producer wrote, `sampling` decides before anything is built, `ids` knows
the spans of other processes, `encode` makes bytes of spans, `outbox` sends them, `exceptions` makes log records of what
was raised. `sdk` is the only one that knows OpenTelemetry's SDK, and is imported only where an endpoint is set: without
one a message costs nothing.
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
