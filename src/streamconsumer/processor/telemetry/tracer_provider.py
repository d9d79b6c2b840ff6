"""Spans through a tracer provider that is given: for whoever runs a processor in a program that has one.

Its SDK chooses ids and samples. So attempts are not linked to each other here, and a span costs what it costs there.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from streamconsumer import __version__
from streamconsumer.processor.message import Entry, Message
from streamconsumer.processor.telemetry import content, semconv
from streamconsumer.processor.telemetry.content import Link
from streamconsumer.processor.telemetry.spans import failed
from streamconsumer.processor.telemetry.trace_context import Remote, producer

Begun = tuple[trace.Span, Any]


class ProvidedTelemetry:
    """The spans of attempts alone."""

    dead_letter_stream = ""
    is_behind = False
    carriers = None
    clock_offset_ns = 0

    def __init__(
        self,
        provider: trace.TracerProvider,
        *,
        stream: str,
        consumer_group: str,
        consumer: str,
        server: Callable[[], tuple[str, int | None]],
    ) -> None:
        self._tracer = trace.get_tracer(semconv.SCOPE, __version__, provider, semconv.SCHEMA_URL)
        self._name, self._server = f"process {stream}", server
        self._who = {**content.group(stream, consumer_group), semconv.CLIENT_ID: consumer}

    def listening(self, clock_offset_ns: int) -> None:
        """Only the offset is kept: when the program began is its own affair."""
        self.clock_offset_ns = clock_offset_ns

    def begin(self, entry: Entry, data: Mapping[Any, Any]) -> Begun:
        made, now = producer(data), time.time_ns()
        parent = context.Context()
        if made is not None:
            parent = trace.set_span_in_context(NonRecordingSpan(_public(made)), parent)
        return self._begin(parent, content.attempt(entry, now, self.clock_offset_ns), content.links(made, {}))

    def end(self, attempt: Begun, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        span = attempt[0]
        entry.taken_ns = 0
        if outcome:
            span.set_attribute(semconv.OUTCOME, outcome)
        self._end(attempt, error)

    def begin_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Begun:
        links: list[Link] = []
        for entry, message in zip(entries, messages, strict=True):
            links += content.links(producer(message.data), {}, content.message(entry))
        return self._begin(context.Context(), {semconv.BATCH_COUNT: len(entries)}, links)

    def end_batch(self, attempt: Begun, entries: Sequence[Entry], error: BaseException | None = None) -> None:  # noqa: ARG002 - ours needs it
        self._end(attempt, error)

    def took_in(self, entries: Sequence[Entry]) -> None:
        now = time.time_ns()
        for entry in entries:
            entry.taken_ns = now

    async def catch_up(self) -> None:
        """Not recorded, like all that follow."""

    def claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        pass

    def acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        pass

    def buried(self, entry: Entry, start_ns: int, *, was_begun: bool) -> None:
        pass

    def _begin(self, parent: context.Context, about: Mapping[str, Any], links: Sequence[Link]) -> Begun:
        span = self._tracer.start_span(
            self._name,
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={**self._who, **content.operation("process", "process", *self._server()), **about},
            links=[trace.Link(_public(to), told) for to, told in links],
            record_exception=False,
            set_status_on_exception=False,
        )
        return span, context.attach(trace.set_span_in_context(span, parent))

    @staticmethod
    def _end(attempt: Begun, error: BaseException | None) -> None:
        span, token = attempt
        context.detach(token)
        if error is not None:
            failed(span, error)
        span.end()


def _public(remote: Remote) -> SpanContext:
    state = TraceState.from_header([remote.state]) if remote.state else None
    numbers = int.from_bytes(remote.trace_id, "big"), int.from_bytes(remote.span_id, "big")
    return SpanContext(*numbers, is_remote=True, trace_flags=TraceFlags(remote.flags), trace_state=state)
