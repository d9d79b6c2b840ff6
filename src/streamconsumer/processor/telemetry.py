"""The only user of OpenTelemetry, and every name that goes to a collector.

Names follow the semantic conventions for messaging 1.44 (all still in development there): a CONSUMER span
`process <stream>` per message, child of and linked to the producer's context, which travels as plain `traceparent`
and `tracestate` fields of the entry. What the conventions do not know is under `streamconsumer.`.

Nothing here is imported by OpenTelemetry's SDK unless an endpoint is set: without one a message costs nothing.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streamconsumer import __version__
from streamconsumer.processor.faults import told
from streamconsumer.processor.message import Message

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
CONSUMER_GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"
CLIENT_ID = "messaging.client.id"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
BATCH_COUNT = "messaging.batch.message_count"
DELIVERY_COUNT = "streamconsumer.delivery.count"

CARRIER_FIELDS = ("traceparent", "tracestate")
LONGEST_CARRIER_FIELD = 512
"""Longer context is not parsed: a producer must not be able to make a consumer work for it."""

FLUSH_BUDGET = timedelta(seconds=3)
"""What the last spans may cost at shutdown; the SDK's own limit is 30 s, a whole grace period."""

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# The SDK's queue of 2048 spans overflows within a second of a busy pod; bounded all the same, at about 30 MB.
QUEUE_SPANS, BATCH_SPANS, EXPORT_DELAY_MILLISECONDS = 8192, 512, 1000

MOST_LINKS = 1000
"""The largest batch; the SDK alone would keep 128."""

_propagator = TraceContextTextMapPropagator()


class Telemetry:
    """Spans for one consumer, through the tracer provider given or the process's own."""

    def __init__(
        self,
        *,
        stream: str,
        consumer_group: str,
        consumer: str,
        server: Callable[[], tuple[str, int | None]],
        provider: trace.TracerProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("streamconsumer", __version__, provider, SCHEMA_URL)
        self._provider = provider
        self._name = f"process {stream}"
        self._server = server
        self._attributes: dict[str, str | int] = {
            SYSTEM: "redis",
            OPERATION_NAME: "process",
            OPERATION_TYPE: "process",
            DESTINATION: stream,
            CONSUMER_GROUP: consumer_group,
            CLIENT_ID: consumer,
        }

    def processing(self, message: Message) -> AbstractContextManager[None]:
        """The span of one message, current while its handler runs; an exception makes it an error."""
        producer = context_of(message.data)
        created = trace.get_current_span(producer).get_span_context()
        attributes = {**self._common(), MESSAGE_ID: message.message_id}
        if message.deliveries > 1:
            attributes[DELIVERY_COUNT] = message.deliveries
        span = self._tracer.start_span(
            self._name,
            context=producer,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(created)] if created.is_valid else None,
            record_exception=False,
            set_status_on_exception=False,
        )
        return _within(span, producer)

    def processing_batch(self, messages: Sequence[Message]) -> AbstractContextManager[None]:
        """The same for a batch: a trace of its own, for its messages have no parent in common, linked to each of them.
        What differs between messages stands at the link."""
        links = []
        for message in messages:
            created = trace.get_current_span(context_of(message.data)).get_span_context()
            if created.is_valid:
                attributes: dict[str, str | int] = {MESSAGE_ID: message.message_id}
                if message.deliveries > 1:
                    attributes[DELIVERY_COUNT] = message.deliveries
                links.append(Link(created, attributes))
        root = context.Context()
        span = self._tracer.start_span(
            self._name,
            context=root,
            kind=SpanKind.CONSUMER,
            attributes={**self._common(), BATCH_COUNT: len(messages)},
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        )
        return _within(span, root)

    def _common(self) -> dict[str, str | int]:
        address, port = self._server()  # another one after a failover
        at_port = {} if port is None else {SERVER_PORT: port}
        return {**self._attributes, SERVER_ADDRESS: address, **at_port}

    def shutdown(self) -> bool:
        """Send the last spans within the budget. False: it was not enough, and some are lost."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is None:
            return True
        thread = threading.Thread(target=shutdown, name="telemetry shutdown", daemon=True)
        thread.start()
        thread.join(FLUSH_BUDGET.total_seconds())
        return not thread.is_alive()


@contextmanager
def _within(span: Span, parent: context.Context) -> Iterator[None]:
    token = context.attach(trace.set_span_in_context(span, parent))
    try:
        yield
    except BaseException as error:
        _fail(span, error)
        raise
    finally:
        context.detach(token)
        span.end()


def provider_from_env(environ: Mapping[str, str]) -> "TracerProvider | None":
    """An SDK that exports over OTLP/HTTP where the OTEL_ variables name an endpoint; None, and no SDK, otherwise."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if off or not any(environ.get(name) for name in ENDPOINT_VARIABLES):
        return None
    # The SDK costs a second of start-up: only who exports pays it.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    def unless_set(variable: str, value: int) -> int | None:
        return None if variable in environ else value

    limits = SpanLimits(max_links=unless_set("OTEL_SPAN_LINK_COUNT_LIMIT", MOST_LINKS))
    provider = TracerProvider(shutdown_on_exit=False, span_limits=limits)  # its own hook would wait 30 s
    provider.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(),
            max_queue_size=unless_set("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS),
            max_export_batch_size=unless_set("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS),
            schedule_delay_millis=unless_set("OTEL_BSP_SCHEDULE_DELAY", EXPORT_DELAY_MILLISECONDS),
        )
    )
    trace.set_tracer_provider(provider)  # so that what the handler traces goes the same way
    return provider


def context_of(data: Mapping[Any, Any]) -> context.Context:
    """The producer's context from an entry's fields; an empty one where there is none or it is garbage."""
    carrier: dict[str, str] = {}
    for name in CARRIER_FIELDS:
        value = data.get(name, data.get(name.encode()))
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        if isinstance(text, str) and len(text) <= LONGEST_CARRIER_FIELD:
            carrier[name] = text
    if "traceparent" not in carrier:
        return context.Context()
    return _propagator.extract(carrier, context.Context())


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


def _fail(span: Span, error: BaseException) -> None:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute(ERROR_TYPE, name)
    span.set_status(Status(StatusCode.ERROR, told(error)[:500]))
