"""Span recorder of one consumer: implements `MessageTracing` with spans that are encoded into an export queue.

The methods raise no exceptions, so that a failure in tracing cannot lose a message.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import Token
from datetime import timedelta
from functools import lru_cache, partial
from threading import Thread
from typing import Any

from opentelemetry import context, trace
from opentelemetry.baggage import set_baggage

from streamconsumer.model.processor_settings import TraceContextSettings
from streamconsumer.processor.entry_state import RUNNING
from streamconsumer.processor.message import Entry, Message
from streamconsumer.processor.telemetry import content, otlp_encoding, semconv
from streamconsumer.processor.telemetry.content import Link, RelatedSpans
from streamconsumer.processor.telemetry.exception_logs import ExceptionLogs
from streamconsumer.processor.telemetry.export_queue import ExportQueue
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.spans import RecordedSpan, UnsampledSpan, record_failure
from streamconsumer.processor.telemetry.trace_context import SpanRef, extract_baggage
from streamconsumer.processor.telemetry.trace_identity import (
    DeterministicIds,
    TraceIdentities,
    random_span_id,
    random_trace_id,
)

log = logging.getLogger(__name__)

FLUSH_BUDGET = timedelta(seconds=3)
"""Time limit for sending the last spans at shutdown. The SDK's own limit is 30 s, a pod's whole grace period."""

MAX_EXPORT_WAIT = timedelta(milliseconds=100)
"""Maximum pause of the reads for the export of spans. The processor pauses only if the collector accepts spans fast."""

MAX_LINKS = 1000
"""Maximum number of messages that a batch span links to, which is also the maximum size of a batch."""

MAX_UNACKNOWLEDGED = 100_000
"""Maximum number of spans that are kept until the messages are acknowledged."""

_CLIENT, _PRODUCER, _CONSUMER = 3, 4, 5
_SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, context.Context())))
"""OpenTelemetry's context key of the current span. With this key, a context is built in a third of the time."""

_OUTCOMES = {outcome: otlp_encoding.attributes({semconv.OUTCOME: outcome}) for outcome in semconv.OUTCOMES}

Attempt = tuple[UnsampledSpan, "Token[context.Context]"]
"""Started span and the token that restores the previous context."""


class SpanRecorder:
    """Records the spans of one consumer and puts them into `queue`.

    `server` returns the address and the port of Redis. `trace_context` defines how the producer's context is used; None
    selects the defaults. `is_batch` is True if the handler takes batches. `shutdown` ends the recording of the
    handlers' own spans.
    """

    def __init__(
        self,
        queue: ExportQueue,
        *,
        stream: str,
        consumer_group: str,
        consumer: str,
        server: Callable[[], tuple[str, int | None]],
        sampler: Sampler | None = None,
        trace_context: TraceContextSettings | None = None,
        is_batch: bool = False,
        exception_queue: ExportQueue | None = None,
        startup_span: RecordedSpan | None = None,
        shutdown: Callable[[], object] = lambda: None,
    ) -> None:
        self._queue, self._server, self._shutdown = queue, server, shutdown
        trace_context = trace_context or TraceContextSettings()
        self._stream, self._allowed_baggage = stream, trace_context.baggage
        self._ids, self._sampler = DeterministicIds(stream, consumer_group), sampler or Sampler()
        self._process_head = otlp_encoding.span_head(f"process {stream}", _CONSUMER)
        self._related = RelatedSpans(self._ids, is_batch=is_batch)
        self._identities = TraceIdentities(self._ids, self._sampler, trace_context.context, trace_context.context_field)
        group_attributes = content.group_attributes(stream, consumer_group)
        self._consumer_attributes = {**group_attributes, semconv.CLIENT_ID: consumer}
        self._exceptions = ExceptionLogs(exception_queue, group_attributes) if exception_queue else None
        self._common = lru_cache(64)(self._common_attributes)
        self._startup_span = startup_span
        self._startup_ref: SpanRef | None = None
        """Startup span of the pod. None before this span has ended, and after the first recorded attempt has been
        linked to this span."""
        self._unacknowledged: dict[str, SpanRef] = {}
        self.dead_letter_stream = ""
        """Name of the dead-letter stream, set by the consumer. Empty for a custom stream manager."""
        self.clock_offset_ns = 0
        """Nanoseconds by which the server's clock is ahead of this machine's clock."""

    def on_ready(self, clock_offset_ns: int) -> None:
        """End the pod's startup span, because the group now exists.

        The first recorded attempt is linked to the startup span.
        """
        self.clock_offset_ns = clock_offset_ns
        span, self._startup_span = self._startup_span, None
        if span is None:
            return
        span.describe({**self._consumer_attributes, **content.server_attributes(*self._server())}, ())
        self._export(span)
        self._startup_ref = span.ref

    # -- attempts ------------------------------------------------------------------------------------------------------

    def start_attempt(self, entry: Entry, data: Mapping[Any, Any]) -> Attempt | None:
        """Start the span of an attempt and make it the current span.

        Returns None if no span is recorded and there is no context to propagate. If the result is None, the caller does
        not call `end_attempt`.
        """
        if self._identities.never_samples and self._identities.trace_fields.isdisjoint(data):
            return None
        identity = self._identities.for_message(entry, data)
        if identity is None:
            return None
        trace_id, flags, producer, parent = identity.trace_id, identity.flags, identity.producer, identity.parent
        state = producer.state if producer is not None and parent else ""
        span: UnsampledSpan
        if flags & 1:
            span_id = (
                random_span_id()
                if entry.had_uncounted_attempt
                else self._ids.attempt_span_id(entry.message_id, entry.deliveries)
            )
            span = recorded = RecordedSpan(self._process_head, trace_id, span_id, flags, parent=parent, state=state)
            attributes = content.attempt_attributes(entry, recorded.start_ns, self.clock_offset_ns)
            links = content.message_links(producer, self._related.preceding(entry, identity))
            self._describe(recorded, attributes, links)
        else:
            span = UnsampledSpan(trace_id, parent or trace_id[:8], flags, state=state)
        return span, context.attach(self._context_of(span, data))

    def end_attempt(self, attempt: Attempt, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        """End the span of an attempt. `outcome` is one of `semconv.OUTCOMES`, or empty if unknown."""
        span, token = attempt
        context.detach(token)
        if not isinstance(span, RecordedSpan):
            return
        entry.received_ns = 0
        if outcome:
            span.parts.append(_OUTCOMES[outcome])
        if error is not None:
            entry.last_attempt_span = span.ref
            if outcome != "defer":  # a deferred message has not failed
                record_failure(span, error)
                if self._exceptions is not None and outcome != "released":
                    self._exceptions.record(span, error, {semconv.MESSAGE_ID: entry.message_id})
        elif outcome == "ack":
            self._remember_until_acknowledged(entry.message_id, span)
        self._export(span)

    def start_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Attempt:
        """Start the span of a handler call with one batch, and make it the current span.

        The messages have no common parent, so the span starts its own trace and links to each message. The links carry
        the attributes of single messages. The span is recorded if its trace is sampled, or if a message that has a
        producer's context is sampled.
        """
        trace_id = random_trace_id()
        identities = [
            self._identities.for_message(entry, message.data) for entry, message in zip(entries, messages, strict=True)
        ]
        is_sampled = self._sampler.should_sample(trace_id, None) or any(
            each is not None and each.producer is not None and each.is_sampled for each in identities
        )
        span: UnsampledSpan
        if is_sampled:
            span = recorded = RecordedSpan(self._process_head, trace_id, random_span_id(), 1)
            links: list[Link] = []
            for entry, identity in zip(entries[:MAX_LINKS], identities, strict=False):
                producer = identity and identity.producer
                related = {"previous_attempt": entry.last_attempt_span, "claim": entry.claim_span}
                links += content.message_links(producer, related, content.message_attributes(entry))
            self._describe(recorded, {semconv.BATCH_COUNT: len(entries)}, links)
        else:
            span = UnsampledSpan(trace_id, trace_id[:8], 0)
        return span, context.attach(self._context_of(span, {}))

    def end_batch(self, attempt: Attempt, entries: Sequence[Entry], error: BaseException | None = None) -> None:
        """End the span of a handler call with one batch. `error` is set if the whole batch failed."""
        span, token = attempt
        context.detach(token)
        if not isinstance(span, RecordedSpan):
            return
        if error is not None:
            record_failure(span, error)
            if self._exceptions is not None:
                self._exceptions.record(span, error, {semconv.BATCH_COUNT: len(entries)})
        for entry in entries:
            if entry.state is not RUNNING:
                entry.last_attempt_span = span.ref
            else:
                self._remember_until_acknowledged(entry.message_id, span)
        self._export(span)

    def on_received(self, entries: Sequence[Entry]) -> None:
        """Record when this process received the entries."""
        if self._identities.never_samples:
            return  # few messages are sampled; their spans must not slow down the other messages
        now = time.time_ns()
        for entry in entries:
            entry.received_ns = now

    @property
    def is_backlogged(self) -> bool:
        """True if spans are recorded faster than they are sent, and a pause in `wait_for_export` would let the queue
        drain."""
        return self._queue.is_backlogged

    async def wait_for_export(self) -> None:
        """Pause briefly so that the export queue can drain. Does not wait for a slow or unavailable collector."""
        deadline = time.monotonic() + MAX_EXPORT_WAIT.total_seconds()
        while self._queue.is_backlogged and time.monotonic() < deadline:  # noqa: ASYNC110 - changed by another thread
            await asyncio.sleep(0.001)

    @property
    def trace_fields(self) -> frozenset[str | bytes] | None:
        """Name of the trace context field, as text and as bytes. None if messages without this field can get a span.

        A message without the trace context field gets no span and no context.
        """
        return self._identities.trace_fields if self._identities.never_samples else None

    # -- rare events ---------------------------------------------------------------------------------------------------

    def on_claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        """Record a claim of another consumer's entries.

        The span links to the attempts that were interrupted when the other process ended. The spans of the interrupted
        attempts were never exported.
        """
        links: list[Link] = []
        for entry in entries:
            identity = self._identities.for_entry(entry)
            if identity is not None and identity.is_sampled:
                interrupted = self._related.attempt(entry, identity, entry.deliveries)
                producer = None if interrupted else identity.producer
                links += content.message_links(
                    producer, {"attempt": interrupted}, {semconv.MESSAGE_ID: entry.message_id}
                )
        if not links:
            return
        attributes = {semconv.BATCH_COUNT: len(entries), semconv.CLAIMED_FROM: entries[0].claimed_from}
        claim = self._record_request("claim", "receive", start_ns, attributes, links=links)
        for entry in entries:
            entry.claim_span = claim.ref

    def on_acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """Record an XACK that Redis has replied to.

        If one message was acknowledged, the span of its attempt is the parent. If several messages were acknowledged,
        the new span links to the spans of their attempts.
        """
        if not self._unacknowledged:
            return
        spans = [span for id_ in message_ids if (span := self._unacknowledged.pop(id_, None))]
        if not spans:
            return
        if len(message_ids) == 1:
            self._record_request(
                "ack", "settle", start_ns, {semconv.MESSAGE_ID: next(iter(message_ids))}, parent=spans[0]
            )
        else:
            links = [(span, content.NO_ATTRIBUTES) for span in dict.fromkeys(spans)]
            self._record_request("ack", "settle", start_ns, {semconv.BATCH_COUNT: len(message_ids)}, links=links)

    def on_dead_lettered(self, entry: Entry, start_ns: int, *, was_started: bool) -> None:
        """Record a dead letter as a child of the last attempt.

        The span id is deterministic, so that a replay can link to the span.
        """
        identity = self._identities.for_entry(entry)
        if identity is None or not identity.is_sampled:
            return
        last_attempt = entry.last_attempt_span
        if last_attempt is None and was_started:
            last_attempt = self._related.attempt(entry, identity, entry.deliveries)
        is_child = last_attempt is not None and last_attempt.trace_id == identity.trace_id
        parent = last_attempt.span_id if last_attempt and is_child else identity.parent
        stream = self.dead_letter_stream
        head = otlp_encoding.span_head(f"send {stream}", _PRODUCER)
        span_id = self._ids.dead_letter_span_id(identity.origin, identity.replays)
        span = RecordedSpan(head, identity.trace_id, span_id, identity.flags, parent=parent)
        span.start_ns = start_ns
        attributes = {
            **content.operation_attributes("send", "send", *self._server()),
            semconv.SYSTEM: "redis",
            semconv.DESTINATION: stream,
            semconv.MESSAGE_ID: entry.message_id,
        }
        span.describe(attributes, content.message_links(identity.producer, {"attempt": last_attempt}))
        self._export(span)

    @property
    def dropped(self) -> int:
        """Number of spans that were recorded but never reached the collector."""
        return self._queue.dropped

    @property
    def sent(self) -> int:
        """Number of spans that the collector accepted."""
        return self._queue.sent

    def flush(self, timeout_seconds: float = FLUSH_BUDGET.total_seconds()) -> bool:
        """Send queued spans and exceptions now. Returns False if the timeout expired before the queues were empty."""
        deadline = time.monotonic() + timeout_seconds
        is_flushed = self._queue.flush(timeout_seconds)
        return is_flushed and (self._exceptions is None or self._exceptions.flush(deadline - time.monotonic()))

    def shutdown(self) -> bool:
        """Send the last spans, the handlers' own spans and the exceptions in parallel, within `FLUSH_BUDGET`.

        Returns False if `FLUSH_BUDGET` expired before everything was sent.
        """
        budget = FLUSH_BUDGET.total_seconds()
        deadline = time.monotonic() + budget
        actions: list[Callable[[], object]] = [self._shutdown]
        if self._exceptions is not None:
            actions.append(partial(self._exceptions.close, budget))
        threads = [Thread(target=action, name="telemetry shutdown", daemon=True) for action in actions]
        for thread in threads:
            thread.start()
        is_sent = self._queue.close(budget)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return is_sent and not any(thread.is_alive() for thread in threads)

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _context_of(self, span: UnsampledSpan, data: Mapping[Any, Any]) -> context.Context:
        current = context.Context({_SPAN_KEY: span})
        if self._allowed_baggage:
            for key, value in extract_baggage(data, self._allowed_baggage).items():
                current = set_baggage(key, value, current)
        return current

    def _remember_until_acknowledged(self, message_id: str, span: RecordedSpan) -> None:
        """Keep the span for `on_acknowledged`.

        With a custom stream manager, the span is not kept, because the consumer does not call `on_acknowledged`.
        """
        if self.dead_letter_stream and len(self._unacknowledged) < MAX_UNACKNOWLEDGED:
            self._unacknowledged[message_id] = span.ref

    def _describe(self, span: RecordedSpan, attributes: Mapping[str, Any], links: list[Link]) -> None:
        """Add attributes and links of an attempt. The first recorded attempt also links to the pod's startup span."""
        if self._startup_ref is not None:
            links += content.message_links(None, {"pod_start": self._startup_ref})
            self._startup_ref = None
        span.parts.append(self._common("process", "process", *self._server()))
        span.describe(attributes, links)

    def _record_request(
        self,
        operation: str,
        kind: str,
        start_ns: int,
        attributes: Mapping[str, Any],
        *,
        links: Iterable[Link] = (),
        parent: SpanRef | None = None,
    ) -> RecordedSpan:
        """Record the span of a request that Redis has replied to."""
        trace_id, parent_id, flags, _ = parent or (random_trace_id(), b"", 1, "")
        head = otlp_encoding.span_head(f"{operation} {self._stream}", _CLIENT)
        span = RecordedSpan(head, trace_id, random_span_id(), flags, parent=parent_id)
        span.start_ns = start_ns
        span.parts.append(self._common(operation, kind, *self._server()))
        span.describe(attributes, links)
        self._export(span, is_remote=False)
        return span

    def _common_attributes(self, operation: str, kind: str, address: str, port: int | None) -> bytes:
        """Encode the attributes common to all spans of an operation on one server."""
        operation_attributes = content.operation_attributes(operation, kind, address, port)
        return otlp_encoding.attributes({**self._consumer_attributes, **operation_attributes})

    def _export(self, span: RecordedSpan, *, is_remote: bool = True) -> None:
        if self._queue.drop_if_full():
            return
        try:
            encoded = span.encode(is_remote=is_remote)
        except Exception:
            log.exception("failed to encode span; check that all attributes can be converted to text")
            return
        self._queue.put(encoded)
