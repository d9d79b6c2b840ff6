"""Spans through a tracer provider that is given: for whoever runs a processor in a program that has one.

Its SDK chooses ids and samples. So attempts are not linked to each other here, and a span costs what it costs there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from streamconsumer import __version__
from streamconsumer.processor.faults import told
from streamconsumer.processor.message import Entry, Message
from streamconsumer.processor.telemetry import names
from streamconsumer.processor.telemetry.context import Remote, producer
from streamconsumer.processor.telemetry.spans import LONGEST_STATUS, error_type

Begun = tuple[trace.Span, Any]


class ProvidedTelemetry:
    """The spans of attempts alone."""

    dead_letter_stream = ""
    is_behind = False
    carriers = None

    def __init__(
        self,
        provider: trace.TracerProvider,
        *,
        stream: str,
        consumer_group: str,
        consumer: str,
        server: Callable[[], tuple[str, int | None]],
    ) -> None:
        self._tracer = trace.get_tracer(names.SCOPE, __version__, provider, names.SCHEMA_URL)
        self._name, self._server = f"process {stream}", server
        self._attributes: dict[str, str | int] = {
            names.SYSTEM: "redis",
            names.OPERATION_NAME: "process",
            names.OPERATION_TYPE: "process",
            names.DESTINATION: stream,
            names.CONSUMER_GROUP: consumer_group,
            names.CLIENT_ID: consumer,
        }

    def listening(self, clock_offset_ns: int) -> None:
        """Not recorded: when the program began is its own affair."""

    def begin(self, entry: Entry, data: Mapping[Any, Any]) -> Begun:
        made = producer(data)
        parent, links = context.Context(), []
        if made is not None:
            links = [Link(_public(made))]
            parent = trace.set_span_in_context(NonRecordingSpan(links[0].context), parent)
        return self._begin(parent, _about(entry), links)

    def end(self, attempt: Begun, entry: Entry, outcome: str, error: BaseException | None = None) -> None:  # noqa: ARG002 - ours needs it
        span = attempt[0]
        if outcome:
            span.set_attribute(names.OUTCOME, outcome)
        self._end(attempt, error)

    def begin_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Begun:
        found = [(entry, producer(message.data)) for entry, message in zip(entries, messages, strict=True)]
        links = [Link(_public(made), _about(entry)) for entry, made in found if made is not None]
        return self._begin(context.Context(), {names.BATCH_COUNT: len(entries)}, links)

    def end_batch(self, attempt: Begun, entries: Sequence[Entry], error: BaseException | None = None) -> None:  # noqa: ARG002 - ours needs it
        self._end(attempt, error)

    def took_in(self, entries: Sequence[Entry]) -> None:
        """Not recorded, like all that follow."""

    async def catch_up(self) -> None:
        pass

    def claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        pass

    def acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        pass

    def buried(self, entry: Entry, start_ns: int, *, was_begun: bool) -> None:
        pass

    def _begin(self, parent: context.Context, about: Mapping[str, str | int], links: Sequence[Link]) -> Begun:
        address, port = self._server()
        where = {names.SERVER_ADDRESS: address} | ({} if port is None else {names.SERVER_PORT: port})
        span = self._tracer.start_span(
            self._name,
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={**self._attributes, **where, **about},
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        )
        return span, context.attach(trace.set_span_in_context(span, parent))

    @staticmethod
    def _end(attempt: Begun, error: BaseException | None) -> None:
        span, token = attempt
        context.detach(token)
        if error is not None:
            span.set_attribute(names.ERROR_TYPE, error_type(error))
            span.set_status(Status(StatusCode.ERROR, told(error)[:LONGEST_STATUS]))
        span.end()


def _about(entry: Entry) -> dict[str, str | int]:
    about: dict[str, str | int] = {names.MESSAGE_ID: entry.message_id}
    if entry.deliveries > 1:
        about[names.DELIVERY_COUNT] = entry.deliveries
    return about


def _public(remote: Remote) -> SpanContext:
    state = TraceState.from_header([remote.state]) if remote.state else None
    numbers = int.from_bytes(remote.trace_id, "big"), int.from_bytes(remote.span_id, "big")
    return SpanContext(*numbers, is_remote=True, trace_flags=TraceFlags(remote.flags), trace_state=state)
