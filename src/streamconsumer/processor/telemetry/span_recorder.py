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
from streamconsumer.processor.telemetry.exception_logs import Exceptions
from streamconsumer.processor.telemetry.export_queue import Outbox
from streamconsumer.processor.telemetry.sampling import Sampling
from streamconsumer.processor.telemetry.spans import RecordedSpan, UnsampledSpan, failed
from streamconsumer.processor.telemetry.trace_context import Remote, baggage
from streamconsumer.processor.telemetry.trace_identity import Ids, Subject, Subjects, Trust, random_span, random_trace

log = logging.getLogger(__name__)

FLUSH_BUDGET = timedelta(seconds=3)
"""What the last spans may cost at shutdown; the SDK's own limit is 30 s, a whole grace period."""

PATIENCE = timedelta(milliseconds=100)
"""How long reading waits, at most and each time, for a collector that takes what it is sent."""

MOST_LINKS = 1000
"""The largest batch."""

MOST_UNACKNOWLEDGED = 100_000
"""Of so many sampled messages it is remembered which span their acknowledgement belongs to."""

_CLIENT, _PRODUCER, _CONSUMER = 3, 4, 5
_SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, context.Context())))
"""Where OpenTelemetry keeps the current span: a context is made in a third of the time."""

_OUTCOMES = {each: otlp_encoding.attributes({semconv.OUTCOME: each}) for each in semconv.OUTCOMES}
Attempt = tuple[UnsampledSpan, "Token[context.Context]"]
"""What `begin` gives and `end` takes."""


class Telemetry:
    """What a pod records, into an outbox."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        stream: str,
        consumer_group: str,
        consumer: str,
        server: Callable[[], tuple[str, int | None]],
        sampling: Sampling | None = None,
        trust: Trust = "parent",
        field: str = "traceparent",
        allowed_baggage: Sequence[str] = (),
        batches: bool = False,
        exceptions: Outbox | None = None,
        start: RecordedSpan | None = None,
        shutdown: Callable[[], object] = lambda: None,
    ) -> None:
        self._outbox, self._server, self._shutdown = outbox, server, shutdown
        self._stream, self._allowed_baggage = stream, allowed_baggage
        self._ids, self._sampling = Ids(stream, consumer_group), sampling or Sampling()
        self._process_head = otlp_encoding.head(f"process {stream}", _CONSUMER)
        self._batches = batches
        self._subjects = Subjects(self._ids, self._sampling, trust, field)
        about = content.group(stream, consumer_group)
        self._who = {**about, semconv.CLIENT_ID: consumer}
        self._exceptions = Exceptions(exceptions, about) if exceptions else None
        self._common = lru_cache(64)(self._common_of)
        self._start = start
        self._started: Remote | None = None
        """The span of the pod's start, until an attempt is linked to it."""
        self._unacknowledged: dict[str, Remote] = {}
        self.dead_letter_stream = ""
        """Told by the intake."""
        self.clock_offset_ns = 0
        """By how much the server's clock is ahead of this machine's."""

    def listening(self, clock_offset_ns: int) -> None:
        """The group is there: the pod's start is over, and the first attempt that is recorded is linked to it."""
        self.clock_offset_ns = clock_offset_ns
        span, self._start = self._start, None
        if span is None:
            return
        span.describe({**self._who, **content.server(*self._server())}, ())
        self._put(span)
        self._started = span.remote

    # -- attempts ------------------------------------------------------------------------------------------------------

    def begin(self, entry: Entry, data: Mapping[Any, Any]) -> Attempt | None:
        """The span of an attempt, current from here on. None: nothing is recorded or handed on, and no `end` wanted."""
        if self._subjects.is_never and self._subjects.carriers.isdisjoint(data):
            return None
        subject = self._subjects.of(entry, data)
        if subject is None:
            return None
        trace_id, flags, producer, parent = subject[2:]
        state = producer.state if producer is not None and parent else ""
        span: UnsampledSpan
        if flags & 1:
            span_id = random_span() if entry.is_deferred else self._ids.attempt(entry.message_id, entry.deliveries)
            span = recorded = RecordedSpan(self._process_head, trace_id, span_id, flags, parent=parent, state=state)
            about = content.attempt(entry, recorded.start_ns, self.clock_offset_ns)
            self._describe(recorded, about, content.links(producer, self._before(entry, subject)))
        else:
            span = UnsampledSpan(trace_id, parent or trace_id[:8], flags, state=state)
        return span, context.attach(self._context_of(span, data))

    def end(self, attempt: Attempt, entry: Entry, outcome: str, error: BaseException | None = None) -> None:
        """`outcome` is one of `names.OUTCOMES`, or nothing where that is not known."""
        span, token = attempt
        context.detach(token)
        if not isinstance(span, RecordedSpan):
            return
        entry.taken_ns = 0
        if outcome:
            span.parts.append(_OUTCOMES[outcome])
        if error is not None:
            failed(span, error)
            entry.attempted = span.remote
            if self._exceptions is not None and outcome != "released":
                self._exceptions.record(span, error, {semconv.MESSAGE_ID: entry.message_id})
        elif outcome == "ack":
            self._will_be_acknowledged(entry.message_id, span)
        self._put(span)

    def begin_batch(self, entries: Sequence[Entry], messages: Sequence[Message]) -> Attempt:
        """The same for a batch: a trace of its own, for its messages have no parent in common, linked to each of them.
        What differs between messages stands at the link. It is recorded if one of them is."""
        trace_id = random_trace()
        subjects = [self._subjects.of(entry, message.data) for entry, message in zip(entries, messages, strict=True)]
        wanted = self._sampling.wants(trace_id, None) or any(
            each is not None and each.producer is not None and each.is_sampled for each in subjects
        )
        span: UnsampledSpan
        if wanted:
            span = recorded = RecordedSpan(self._process_head, trace_id, random_span(), 1)
            links: list[Link] = []
            for entry, subject in zip(entries[:MOST_LINKS], subjects, strict=False):
                producer, about = subject and subject.producer, content.message(entry)
                links += content.links(producer, {"previous_attempt": entry.attempted, "claim": entry.claim}, about)
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
            failed(span, error)
            if self._exceptions is not None:
                self._exceptions.record(span, error, {semconv.BATCH_COUNT: len(entries)})
        for entry in entries:
            if entry.verdict is not None or entry.fate:
                entry.attempted = span.remote
            else:
                self._will_be_acknowledged(entry.message_id, span)
        self._put(span)

    def took_in(self, entries: Sequence[Entry]) -> None:
        """This process has them."""
        if self._subjects.is_never:
            return  # what little is sampled shall not cost all the others
        now = time.time_ns()
        for entry in entries:
            entry.taken_ns = now

    @property
    def is_behind(self) -> bool:
        return self._outbox.is_behind

    async def catch_up(self) -> None:
        """Let the collector have what it can take, for a moment. A slow or dead one is not waited for."""
        deadline = time.monotonic() + PATIENCE.total_seconds()
        while self._outbox.is_behind and time.monotonic() < deadline:  # noqa: ASYNC110 - told by another thread
            await asyncio.sleep(0.001)

    @property
    def carriers(self) -> frozenset[str | bytes] | None:
        """The fields that give a message a span or a context to hand on, where none else has any. None: all may."""
        return self._subjects.carriers if self._subjects.is_never else None

    # -- what is rare --------------------------------------------------------------------------------------------------

    def claimed(self, entries: Sequence[Entry], start_ns: int) -> None:
        """Entries of another consumer are ours. The claim is linked to the attempts that died with their process: of
        those nothing else is ever heard."""
        links: list[Link] = []
        for entry in entries:
            subject = self._subjects.of_fields(entry)
            if subject is not None and subject.is_sampled:
                died = self._attempt(entry, subject, entry.deliveries)
                about: dict[str, Any] = {semconv.MESSAGE_ID: entry.message_id}
                links += content.links(None if died else subject.producer, {"attempt": died}, about)
        if not links:
            return
        about = {semconv.BATCH_COUNT: len(entries), semconv.CLAIMED_FROM: entries[0].claimed_from}
        claim = self._done("claim", "receive", start_ns, about, links=links)
        for entry in entries:
            entry.claim = claim.remote

    def acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """XACK was answered. One span for all; beneath the attempt if it is one, else linked to each."""
        if not self._unacknowledged:
            return
        found = [each for id_ in message_ids if (each := self._unacknowledged.pop(id_, None))]
        if not found:
            return
        if len(message_ids) == 1:
            self._done("ack", "settle", start_ns, {semconv.MESSAGE_ID: next(iter(message_ids))}, parent=found[0])
        else:
            links = [(each, content.NOTHING) for each in dict.fromkeys(found)]
            self._done("ack", "settle", start_ns, {semconv.BATCH_COUNT: len(message_ids)}, links=links)

    def buried(self, entry: Entry, start_ns: int, *, was_begun: bool) -> None:
        """It is a dead letter, beneath its last attempt. A replay finds the span by itself."""
        subject = self._subjects.of_fields(entry)
        if subject is None or not subject.is_sampled:
            return
        last = entry.attempted
        if last is None and was_begun:
            last = self._attempt(entry, subject, entry.deliveries)
        name = self.dead_letter_stream
        span_id = self._ids.dead_letter(subject.origin, subject.replays)
        beneath = last.span_id if last is not None and last.trace_id == subject.trace_id else subject.parent
        head = otlp_encoding.head(f"send {name}", _PRODUCER)
        span = RecordedSpan(head, subject.trace_id, span_id, subject.flags, parent=beneath)
        span.start_ns = start_ns
        who = {semconv.SYSTEM: "redis", semconv.DESTINATION: name, semconv.MESSAGE_ID: entry.message_id}
        about = {**content.operation("send", "send", *self._server()), **who}
        span.describe(about, content.links(subject.producer, {"attempt": last}))
        self._put(span)

    @property
    def dropped(self) -> int:
        """How many spans were recorded and never reached the collector."""
        return self._outbox.dropped

    @property
    def sent(self) -> int:
        return self._outbox.sent

    def flush(self, timeout_seconds: float = FLUSH_BUDGET.total_seconds()) -> bool:
        """Send what waits, now."""
        deadline = time.monotonic() + timeout_seconds
        done = self._outbox.flush(timeout_seconds)
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
        done = self._outbox.close(budget)
        for each in others:
            each.join(max(0.0, deadline - time.monotonic()))
        return done and not any(each.is_alive() for each in others)

    # -- small things --------------------------------------------------------------------------------------------------

    def _context_of(self, span: UnsampledSpan, data: Mapping[Any, Any]) -> context.Context:
        current = context.Context({_SPAN_KEY: span})
        if self._allowed_baggage:
            for key, value in baggage(data, self._allowed_baggage).items():
                current = set_baggage(key, value, current)
        return current

    def _will_be_acknowledged(self, message_id: str, span: RecordedSpan) -> None:
        """Unless a user's own manager acknowledges, of which nothing is heard."""
        if self.dead_letter_stream and len(self._unacknowledged) < MOST_UNACKNOWLEDGED:
            self._unacknowledged[message_id] = span.remote

    def _attempt(self, entry: Entry, subject: Subject, number: int) -> Remote | None:
        """The span of an attempt of another process. None for batches: their span ids are random."""
        if self._batches or number < 1:
            return None
        return Remote(subject.trace_id, self._ids.attempt(entry.message_id, number), subject.flags)

    def _before(self, entry: Entry, subject: Subject) -> dict[str, Remote | None]:
        """The spans that precede an attempt, by the kind of the link to them."""
        found: dict[str, Remote | None] = {}
        if entry.deliveries > 1 or entry.is_deferred:
            found["previous_attempt"] = entry.attempted or self._attempt(entry, subject, entry.deliveries - 1)
        if entry.claim is not None:
            found["claim"] = entry.claim
        if subject.replays:
            letter = self._ids.dead_letter(subject.origin, subject.replays - 1)
            found["dead_letter"] = Remote(subject.trace_id, letter, subject.flags)
        return found

    def _describe(self, span: RecordedSpan, about: Mapping[str, Any], links: list[Link]) -> None:
        """Add the content of an attempt; the first one is linked to the pod's start."""
        if self._started is not None:
            links += content.links(None, {"pod_start": self._started})
            self._started = None
        span.parts.append(self._common("process", "process", *self._server()))
        span.describe(about, links)

    def _done(
        self,
        operation: str,
        kind: str,
        start_ns: int,
        about: Mapping[str, Any],
        *,
        links: Iterable[Link] = (),
        parent: Remote | None = None,
    ) -> RecordedSpan:
        """Record a request to Redis that was answered."""
        trace_id, beneath, flags, _ = parent or (random_trace(), b"", 1, "")
        head = otlp_encoding.head(f"{operation} {self._stream}", _CLIENT)
        span = RecordedSpan(head, trace_id, random_span(), flags, parent=beneath)
        span.start_ns = start_ns
        span.parts.append(self._common(operation, kind, *self._server()))
        span.describe(about, links)
        self._put(span, is_remote=False)
        return span

    def _common_of(self, operation: str, kind: str, address: str, port: int | None) -> bytes:
        """The attributes that all spans of an operation have, until the server is another one."""
        return otlp_encoding.attributes({**self._who, **content.operation(operation, kind, address, port)})

    def _put(self, span: RecordedSpan, *, is_remote: bool = True) -> None:
        if self._outbox.refuses():
            return
        try:
            encoded = span.encoded(is_remote=is_remote)
        except Exception:
            log.exception("a span could not be written: did the handler add what has no text?")
            return
        self._outbox.put(encoded)
