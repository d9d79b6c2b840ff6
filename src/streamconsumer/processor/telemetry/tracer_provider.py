"""Records spans with the tracer provider of the program in which the processor is embedded.

The provider's SDK chooses the ids and makes the sampling decisions. Attempts are therefore not linked to each other,
and each span takes as much time as a span of the SDK.
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
from streamconsumer.processor.telemetry.spans import record_failure
from streamconsumer.processor.telemetry.trace_context import SpanRef, extract

StartedAttempt = tuple[trace.Span, Any]
"""Started span and the token that restores the previous context."""


class TracerProviderTracing:
    """Records only the spans of attempts, through `provider`."""

    dead_letter_stream = ""
    is_backlogged = False
    trace_fields = None
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
        self._consumer_attributes = {**content.group_attributes(stream, consumer_group), semconv.CLIENT_ID: consumer}

    def on_ready(self, clock_offset_ns: int) -> None:
        """Store the clock offset. The program's start is not recorded."""
        self.clock_offset_ns = clock_offset_ns

    def start_attempt(self, entry: Entry, data: Mapping[Any, Any]) -> StartedAttempt:
        producer, start_ns = extract(data), time.time_ns()
        parent = context.Context()
        if producer is not None:
            parent = trace.set_span_in_context(NonRecordingSpan(_span_context(producer)), parent)
        attributes = content.attempt_attributes(entry, start_ns, self.clock_offset_ns)
        return self._start_span(parent, attributes, content.message_links(producer, {}))

    def end_attempt(
        self, attempt: StartedAttempt, entry: Entry, outcome: str, error: BaseException | None = None
    ) -> None:
        span = attempt[0]
        entry.received_ns = 0
        if outcome:
            span.set_attribute(semconv.OUTCOME, outcome)
        self._end_span(attempt, error)

    def start_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> StartedAttempt:
        links: list[Link] = []
        for entry, message in zip(entries, messages, strict=True):
            links += content.message_links(extract(message.data), {}, content.message_attributes(entry))
        return self._start_span(context.Context(), {semconv.BATCH_COUNT: len(entries)}, links)

    def end_batch(self, attempt: StartedAttempt, entries: Sequence[Entry], error: BaseException | None = None) -> None:  # noqa: ARG002 - SpanRecorder needs it
        self._end_span(attempt, error)

    def on_received(self, entries: Sequence[Entry]) -> None:
        now = time.time_ns()
        for entry in entries:
            entry.received_ns = now

    async def wait_for_export(self) -> None:
        """Do nothing, because only attempts are recorded. The methods below whose names begin with `on_` also do
        nothing."""

    def on_claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        pass

    def on_acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        pass

    def on_dead_lettered(self, entry: Entry, start_ns: int, *, was_started: bool) -> None:
        pass

    def _start_span(
        self, parent: context.Context, attributes: Mapping[str, Any], links: Sequence[Link]
    ) -> StartedAttempt:
        span = self._tracer.start_span(
            self._name,
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={
                **self._consumer_attributes,
                **content.operation_attributes("process", "process", *self._server()),
                **attributes,
            },
            links=[trace.Link(_span_context(ref), link_attributes) for ref, link_attributes in links],
            record_exception=False,
            set_status_on_exception=False,
        )
        return span, context.attach(trace.set_span_in_context(span, parent))

    @staticmethod
    def _end_span(attempt: StartedAttempt, error: BaseException | None) -> None:
        span, token = attempt
        context.detach(token)
        if error is not None:
            record_failure(span, error)
        span.end()


def _span_context(ref: SpanRef) -> SpanContext:
    state = TraceState.from_header([ref.state]) if ref.state else None
    numbers = int.from_bytes(ref.trace_id, "big"), int.from_bytes(ref.span_id, "big")
    return SpanContext(*numbers, is_remote=True, trace_flags=TraceFlags(ref.flags), trace_state=state)
