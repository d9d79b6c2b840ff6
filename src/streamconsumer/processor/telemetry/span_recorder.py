"""Spans for one consumer: one call when an attempt begins, one when it ends, and a few for what is rare.

Nothing here raises: a message is not lost to its own description.
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

from streamconsumer.processor.message import Entry, Message
from streamconsumer.processor.telemetry import content, otlp_encoding, semconv
from streamconsumer.processor.telemetry.content import Link
from streamconsumer.processor.telemetry.exception_logs import ExceptionLogs
from streamconsumer.processor.telemetry.export_queue import ExportQueue
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.spans import RecordedSpan, UnsampledSpan, record_failure
from streamconsumer.processor.telemetry.trace_context import SpanRef, extract_baggage
from streamconsumer.processor.telemetry.trace_identity import (
    DeterministicIds,
    TraceIdentities,
    TraceIdentity,
    Trust,
    random_span_id,
    random_trace_id,
)

log = logging.getLogger(__name__)

FLUSH_BUDGET = timedelta(seconds=3)
"""What the last spans may cost at shutdown; the SDK's own limit is 30 s, a whole grace period."""

MAX_EXPORT_WAIT = timedelta(milliseconds=100)
"""How long reading waits, at most and each time, for a collector that takes what it is sent."""

MAX_LINKS = 1000
"""The largest batch."""

MAX_UNACKNOWLEDGED = 100_000
"""Of so many sampled messages it is remembered which span their acknowledgement belongs to."""

_CLIENT, _PRODUCER, _CONSUMER = 3, 4, 5
_SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, context.Context())))
"""Where OpenTelemetry keeps the current span: a context is made in a third of the time."""

_OUTCOMES = {each: otlp_encoding.attributes({semconv.OUTCOME: each}) for each in semconv.OUTCOMES}
Attempt = tuple[UnsampledSpan, "Token[context.Context]"]
"""What `begin` gives and `end` takes."""


class SpanRecorder:
    """What a pod records, into an outbox."""

    def __init__(
        self,
        queue: ExportQueue,
        *,
        stream: str,
        consumer_group: str,
        consumer: str,
        server: Callable[[], tuple[str, int | None]],
        sampling: Sampler | None = None,
        trust: Trust = "parent",
        field: str = "traceparent",
        allowed_baggage: Sequence[str] = (),
        batches: bool = False,
        exceptions: ExportQueue | None = None,
        start: RecordedSpan | None = None,
        shutdown: Callable[[], object] = lambda: None,
    ) -> None:
        self._queue, self._server, self._shutdown = queue, server, shutdown
        self._stream, self._allowed_baggage = stream, allowed_baggage
        self._ids, self._sampler = DeterministicIds(stream, consumer_group), sampling or Sampler()
        self._process_head = otlp_encoding.span_head(f"process {stream}", _CONSUMER)
        self._batches = batches
        self._identities = TraceIdentities(self._ids, self._sampler, trust, field)
        about = content.group_attributes(stream, consumer_group)
        self._consumer_attributes = {**about, semconv.CLIENT_ID: consumer}
        self._exceptions = ExceptionLogs(exceptions, about) if exceptions else None
        self._common = lru_cache(64)(self._common_attributes)
        self._startup_span = start
        self._startup_ref: SpanRef | None = None
        """The span of the pod's start, until an attempt is linked to it."""
        self._unacknowledged: dict[str, SpanRef] = {}
        self.dead_letter_stream = ""
        """Told by the intake."""
        self.clock_offset_ns = 0
        """By how much the server's clock is ahead of this machine's."""

    def on_ready(self, clock_offset_ns: int) -> None:
        """The group is there: the pod's start is over, and the first attempt that is recorded is linked to it."""
        self.clock_offset_ns = clock_offset_ns
        span, self._startup_span = self._startup_span, None
        if span is None:
            return
        span.describe({**self._consumer_attributes, **content.server_attributes(*self._server())}, ())
        self._export(span)
        self._startup_ref = span.ref

    # -- attempts ------------------------------------------------------------------------------------------------------

    def start_attempt(self, entry: Entry, data: Mapping[Any, Any]) -> Attempt | None:
        """The span of an attempt, current from here on. None: nothing is recorded or handed on, and no `end` wanted."""
        if self._identities.never_samples and self._identities.trace_fields.isdisjoint(data):
            return None
        subject = self._identities.for_message(entry, data)
        if subject is None:
            return None
        trace_id, flags, producer, parent = subject[2:]
        state = producer.state if producer is not None and parent else ""
        span: UnsampledSpan
        if flags & 1:
            span_id = (
                random_span_id()
                if entry.had_uncounted_attempt
                else self._ids.attempt_span_id(entry.message_id, entry.deliveries)
            )
            span = recorded = RecordedSpan(self._process_head, trace_id, span_id, flags, parent=parent, state=state)
            about = content.attempt_attributes(entry, recorded.start_ns, self.clock_offset_ns)
            self._describe(recorded, about, content.message_links(producer, self._preceding_spans(entry, subject)))
        else:
            span = UnsampledSpan(trace_id, parent or trace_id[:8], flags, state=state)
        return span, context.attach(self._context_of(span, data))

    def end_attempt(self, attempt: Attempt, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        """`outcome` is one of `names.OUTCOMES`, or nothing where that is not known."""
        span, token = attempt
        context.detach(token)
        if not isinstance(span, RecordedSpan):
            return
        entry.received_ns = 0
        if outcome:
            span.parts.append(_OUTCOMES[outcome])
        if error is not None:
            record_failure(span, error)
            entry.last_attempt_span = span.ref
            if self._exceptions is not None and outcome != "released":
                self._exceptions.record(span, error, {semconv.MESSAGE_ID: entry.message_id})
        elif outcome == "ack":
            self._remember_until_acknowledged(entry.message_id, span)
        self._export(span)

    def start_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Attempt:
        """The same for a batch: a trace of its own, for its messages have no parent in common, linked to each of them.
        What differs between messages stands at the link. It is recorded if one of them is."""
        trace_id = random_trace_id()
        subjects = [
            self._identities.for_message(entry, message.data) for entry, message in zip(entries, messages, strict=True)
        ]
        wanted = self._sampler.should_sample(trace_id, None) or any(
            each is not None and each.producer is not None and each.is_sampled for each in subjects
        )
        span: UnsampledSpan
        if wanted:
            span = recorded = RecordedSpan(self._process_head, trace_id, random_span_id(), 1)
            links: list[Link] = []
            for entry, subject in zip(entries[:MAX_LINKS], subjects, strict=False):
                producer, about = subject and subject.producer, content.message_attributes(entry)
                links += content.message_links(
                    producer, {"previous_attempt": entry.last_attempt_span, "claim": entry.claim_span}, about
                )
            self._describe(recorded, {semconv.BATCH_COUNT: len(entries)}, links)
        else:
            span = UnsampledSpan(trace_id, trace_id[:8], 0)
        return span, context.attach(self._context_of(span, {}))

    def end_batch(self, attempt: Attempt, entries: Sequence[Entry], error: BaseException | None = None) -> None:
        span, token = attempt
        context.detach(token)
        if not isinstance(span, RecordedSpan):
            return
        if error is not None:
            record_failure(span, error)
            if self._exceptions is not None:
                self._exceptions.record(span, error, {semconv.BATCH_COUNT: len(entries)})
        for entry in entries:
            if entry.decision is not None or entry.disposition:
                entry.last_attempt_span = span.ref
            else:
                self._remember_until_acknowledged(entry.message_id, span)
        self._export(span)

    def on_received(self, entries: Sequence[Entry]) -> None:
        """This process has them."""
        if self._identities.never_samples:
            return  # what little is sampled shall not cost all the others
        now = time.time_ns()
        for entry in entries:
            entry.received_ns = now

    @property
    def is_backlogged(self) -> bool:
        return self._queue.is_backlogged

    async def wait_for_export(self) -> None:
        """Let the collector have what it can take, for a moment. A slow or dead one is not waited for."""
        deadline = time.monotonic() + MAX_EXPORT_WAIT.total_seconds()
        while self._queue.is_backlogged and time.monotonic() < deadline:  # noqa: ASYNC110 - told by another thread
            await asyncio.sleep(0.001)

    @property
    def trace_fields(self) -> frozenset[str | bytes] | None:
        """The fields that give a message a span or a context to hand on, where none else has any. None: all may."""
        return self._identities.trace_fields if self._identities.never_samples else None

    # -- what is rare --------------------------------------------------------------------------------------------------

    def on_claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        """Entries of another consumer are ours. The claim is linked to the attempts that died with their process: of
        those nothing else is ever heard."""
        links: list[Link] = []
        for entry in entries:
            subject = self._identities.for_entry(entry)
            if subject is not None and subject.is_sampled:
                died = self._attempt_ref(entry, subject, entry.deliveries)
                about: dict[str, Any] = {semconv.MESSAGE_ID: entry.message_id}
                links += content.message_links(None if died else subject.producer, {"attempt": died}, about)
        if not links:
            return
        about = {semconv.BATCH_COUNT: len(entries), semconv.CLAIMED_FROM: entries[0].claimed_from}
        claim = self._record_request("claim", "receive", start_ns, about, links=links)
        for entry in entries:
            entry.claim_span = claim.ref

    def on_acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """XACK was answered. One span for all; beneath the attempt if it is one, else linked to each."""
        if not self._unacknowledged:
            return
        found = [each for id_ in message_ids if (each := self._unacknowledged.pop(id_, None))]
        if not found:
            return
        if len(message_ids) == 1:
            self._record_request(
                "ack", "settle", start_ns, {semconv.MESSAGE_ID: next(iter(message_ids))}, parent=found[0]
            )
        else:
            links = [(each, content.NO_ATTRIBUTES) for each in dict.fromkeys(found)]
            self._record_request("ack", "settle", start_ns, {semconv.BATCH_COUNT: len(message_ids)}, links=links)

    def on_dead_lettered(self, entry: Entry, start_ns: int, *, was_started: bool) -> None:
        """It is a dead letter, beneath its last attempt. A replay finds the span by itself."""
        subject = self._identities.for_entry(entry)
        if subject is None or not subject.is_sampled:
            return
        last = entry.last_attempt_span
        if last is None and was_started:
            last = self._attempt_ref(entry, subject, entry.deliveries)
        name = self.dead_letter_stream
        span_id = self._ids.dead_letter_span_id(subject.origin, subject.replays)
        beneath = last.span_id if last is not None and last.trace_id == subject.trace_id else subject.parent
        head = otlp_encoding.span_head(f"send {name}", _PRODUCER)
        span = RecordedSpan(head, subject.trace_id, span_id, subject.flags, parent=beneath)
        span.start_ns = start_ns
        who = {semconv.SYSTEM: "redis", semconv.DESTINATION: name, semconv.MESSAGE_ID: entry.message_id}
        about = {**content.operation_attributes("send", "send", *self._server()), **who}
        span.describe(about, content.message_links(subject.producer, {"attempt": last}))
        self._export(span)

    @property
    def dropped(self) -> int:
        """How many spans were recorded and never reached the collector."""
        return self._queue.dropped

    @property
    def sent(self) -> int:
        return self._queue.sent

    def flush(self, timeout_seconds: float = FLUSH_BUDGET.total_seconds()) -> bool:
        """Send what waits, now."""
        deadline = time.monotonic() + timeout_seconds
        done = self._queue.flush(timeout_seconds)
        return done and (self._exceptions is None or self._exceptions.flush(deadline - time.monotonic()))

    def shutdown(self) -> bool:
        """Send what is last within the budget, the handler's own spans and what was raised beside ours. False: it was
        not enough."""
        budget = FLUSH_BUDGET.total_seconds()
        deadline = time.monotonic() + budget
        ends: list[Callable[[], object]] = [self._shutdown]
        if self._exceptions is not None:
            ends.append(partial(self._exceptions.close, budget))
        others = [Thread(target=each, name="telemetry shutdown", daemon=True) for each in ends]
        for each in others:
            each.start()
        done = self._queue.close(budget)
        for each in others:
            each.join(max(0.0, deadline - time.monotonic()))
        return done and not any(each.is_alive() for each in others)

    # -- small things --------------------------------------------------------------------------------------------------

    def _context_of(self, span: UnsampledSpan, data: Mapping[Any, Any]) -> context.Context:
        current = context.Context({_SPAN_KEY: span})
        if self._allowed_baggage:
            for key, value in extract_baggage(data, self._allowed_baggage).items():
                current = set_baggage(key, value, current)
        return current

    def _remember_until_acknowledged(self, message_id: str, span: RecordedSpan) -> None:
        """Unless a user's own manager acknowledges, of which nothing is heard."""
        if self.dead_letter_stream and len(self._unacknowledged) < MAX_UNACKNOWLEDGED:
            self._unacknowledged[message_id] = span.ref

    def _attempt_ref(self, entry: Entry, identity: TraceIdentity, number: int) -> SpanRef | None:
        """The span of an attempt of another process. None for batches: their span ids are random."""
        if self._batches or number < 1:
            return None
        return SpanRef(identity.trace_id, self._ids.attempt_span_id(entry.message_id, number), identity.flags)

    def _preceding_spans(self, entry: Entry, identity: TraceIdentity) -> dict[str, SpanRef | None]:
        """The spans that precede an attempt, by the kind of the link to them."""
        found: dict[str, SpanRef | None] = {}
        if entry.deliveries > 1 or entry.had_uncounted_attempt:
            found["previous_attempt"] = entry.last_attempt_span or self._attempt_ref(
                entry, identity, entry.deliveries - 1
            )
        if entry.claim_span is not None:
            found["claim"] = entry.claim_span
        if identity.replays:
            letter = self._ids.dead_letter_span_id(identity.origin, identity.replays - 1)
            found["dead_letter"] = SpanRef(identity.trace_id, letter, identity.flags)
        return found

    def _describe(self, span: RecordedSpan, attributes: Mapping[str, Any], links: list[Link]) -> None:
        """Add the content of an attempt; the first one is linked to the pod's start."""
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
        """Record a request to Redis that was answered."""
        trace_id, beneath, flags, _ = parent or (random_trace_id(), b"", 1, "")
        head = otlp_encoding.span_head(f"{operation} {self._stream}", _CLIENT)
        span = RecordedSpan(head, trace_id, random_span_id(), flags, parent=beneath)
        span.start_ns = start_ns
        span.parts.append(self._common(operation, kind, *self._server()))
        span.describe(attributes, links)
        self._export(span, is_remote=False)
        return span

    def _common_attributes(self, operation: str, kind: str, address: str, port: int | None) -> bytes:
        """The attributes that all spans of an operation have, until the server is another one."""
        return otlp_encoding.attributes(
            {**self._consumer_attributes, **content.operation_attributes(operation, kind, address, port)}
        )

    def _export(self, span: RecordedSpan, *, is_remote: bool = True) -> None:
        if self._queue.is_full():
            return
        try:
            encoded = span.encode(is_remote=is_remote)
        except Exception:
            log.exception("a span could not be written: did the handler add what has no text?")
            return
        self._queue.put(encoded)
