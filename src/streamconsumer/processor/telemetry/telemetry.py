"""Spans for one consumer: one call when an attempt begins, one when it ends, and a few for what is rare.

Nothing here raises: a message is not lost to its own description.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import Token
from datetime import timedelta
from functools import lru_cache, partial
from threading import Thread
from typing import Any

from opentelemetry import context, trace
from opentelemetry.baggage import set_baggage

from streamconsumer.processor.message import Entry, Message
from streamconsumer.processor.telemetry import encode, names
from streamconsumer.processor.telemetry.context import Remote, baggage
from streamconsumer.processor.telemetry.exceptions import Exceptions
from streamconsumer.processor.telemetry.ids import Ids, random_span, random_trace
from streamconsumer.processor.telemetry.outbox import Outbox
from streamconsumer.processor.telemetry.past import ABOUT, Past, links_of_one
from streamconsumer.processor.telemetry.sampling import Sampling
from streamconsumer.processor.telemetry.spans import RecordedSpan, UnsampledSpan
from streamconsumer.processor.telemetry.subject import Subjects, Trust

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

_message_id = encode.text_attribute(names.MESSAGE_ID)
_OUTCOMES = {each: encode.attributes({names.OUTCOME: each}) for each in names.OUTCOMES}
Common = Callable[[str, str, str, "int | None"], bytes]
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
        self._process_head = encode.head(f"process {stream}", _CONSUMER)
        self._past = Past(self._ids, batches=batches)
        self._subjects = Subjects(self._ids, self._sampling, trust, field)
        self._who = {
            names.SYSTEM: "redis",
            names.DESTINATION: stream,
            names.CONSUMER_GROUP: consumer_group,
            names.CLIENT_ID: consumer,
        }
        about = {key: told for key, told in self._who.items() if key != names.CLIENT_ID}
        self._exceptions = Exceptions(exceptions, about) if exceptions else None
        self._known = lru_cache(64)(self._common_of)
        self._common: Common = self._known
        self._start = start
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
        span.parts.append(encode.attributes({**self._who, **self._at(*self._server())}))
        self._put(span)
        self._common = partial(self._first_common, encode.link(span.remote.ids, ABOUT["pod_start"]))

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
            first = entry.deliveries == 1 and not entry.is_deferred
            span_id = random_span() if entry.is_deferred else self._ids.attempt(entry.message_id, entry.deliveries)
            span = recorded = RecordedSpan(self._process_head, trace_id, span_id, flags, parent=parent, state=state)
            parts = recorded.parts
            parts += (self._common("process", "process", *self._server()), _message_id(entry.message_id))
            if entry.taken_ns:
                self._past.note_queue(recorded, entry, self.clock_offset_ns)
            if producer is not None:
                parts.append(encode.link(producer.ids))
            if not first or subject.replays:
                self._past.note(recorded, entry, subject)
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
            span.failed(error)
            entry.attempted = span.remote
            if self._exceptions is not None and outcome != "released":
                self._exceptions.record(span, error, {names.MESSAGE_ID: entry.message_id})
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
            count = encode.attributes({names.BATCH_COUNT: len(entries)})
            recorded.parts += (self._common("process", "process", *self._server()), count)
            for entry, subject in zip(entries[:MOST_LINKS], subjects, strict=False):
                recorded.parts += links_of_one(entry, subject)
        else:
            span = UnsampledSpan(trace_id, trace_id[:8], 0)
        return span, context.attach(self._context_of(span, {}))

    def end_batch(self, attempt: Attempt, entries: Sequence[Entry], error: BaseException | None = None) -> None:
        span, token = attempt
        context.detach(token)
        if not isinstance(span, RecordedSpan):
            return
        if error is not None:
            span.failed(error)
            if self._exceptions is not None:
                self._exceptions.record(span, error, {names.BATCH_COUNT: len(entries)})
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
        links: list[bytes] = []
        for entry in entries:
            subject = self._subjects.of_fields(entry)
            if subject is not None and subject.is_sampled:
                about = encode.attributes({names.MESSAGE_ID: entry.message_id}, b"\x22")
                if died := self._past.attempt(entry, subject, entry.deliveries):
                    links.append(encode.link(died.ids, ABOUT["attempt"] + about))
                elif subject.producer is not None:
                    links.append(encode.link(subject.producer.ids, about))
        if not links:
            return
        span = RecordedSpan(encode.head(f"claim {self._stream}", _CLIENT), random_trace(), random_span(), 1)
        span.start_ns = start_ns
        about = encode.attributes({names.BATCH_COUNT: len(entries), names.CLAIMED_FROM: entries[0].claimed_from})
        span.parts += (self._common("claim", "receive", *self._server()), about, *links)
        for entry in entries:
            entry.claim = span.remote
        self._put(span)

    def acknowledged(self, message_ids: Collection[str], start_ns: int) -> None:
        """XACK was answered. One span for all; beneath the attempt if it is one, else linked to each."""
        if not self._unacknowledged:
            return
        found = [each for id_ in message_ids if (each := self._unacknowledged.pop(id_, None))]
        if not found:
            return
        head, parts = encode.head(f"ack {self._stream}", _CLIENT), [self._common("ack", "settle", *self._server())]
        if len(message_ids) == 1:
            span = RecordedSpan(head, found[0].trace_id, random_span(), found[0].flags, parent=found[0].span_id)
            parts.append(_message_id(next(iter(message_ids))))
        else:
            span = RecordedSpan(head, random_trace(), random_span(), 1)
            parts.append(encode.attributes({names.BATCH_COUNT: len(message_ids)}))
            parts += [encode.link(each.ids) for each in dict.fromkeys(found)]
        span.start_ns = start_ns
        span.parts = parts
        self._put(span, is_remote=False)

    def buried(self, entry: Entry, start_ns: int, *, was_begun: bool) -> None:
        """It is a dead letter, beneath its last attempt. A replay finds the span by itself."""
        subject = self._subjects.of_fields(entry)
        if subject is None or not subject.is_sampled:
            return
        last = entry.attempted
        if last is None and was_begun:
            last = self._past.attempt(entry, subject, entry.deliveries)
        name = self.dead_letter_stream
        span_id = self._ids.dead_letter(subject.origin, subject.replays)
        beneath = last.span_id if last is not None and last.trace_id == subject.trace_id else subject.parent
        head = encode.head(f"send {name}", _PRODUCER)
        span = RecordedSpan(head, subject.trace_id, span_id, subject.flags, parent=beneath)
        span.start_ns = start_ns
        operation = {names.OPERATION_NAME: "send", names.OPERATION_TYPE: "send"}
        who = {names.SYSTEM: "redis", names.DESTINATION: name, names.MESSAGE_ID: entry.message_id}
        span.parts.append(encode.attributes({**operation, **who, **self._at(*self._server())}))
        if subject.producer is not None:
            span.parts.append(encode.link(subject.producer.ids))
        if last is not None:
            span.parts.append(encode.link(last.ids, ABOUT["attempt"]))
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

    def _first_common(self, link: bytes, operation: str, kind: str, address: str, port: int | None) -> bytes:
        """In place of `_common`, so that no message is asked whether it is the first."""
        common = self._known(operation, kind, address, port)
        if operation != "process":
            return common
        self._common = self._known
        return common + link

    def _common_of(self, operation: str, kind: str, address: str, port: int | None) -> bytes:
        """The attributes that all spans of an operation have, until the server is another one."""
        of_operation = {names.OPERATION_NAME: operation, names.OPERATION_TYPE: kind}
        return encode.attributes({**self._who, **of_operation, **self._at(address, port)})

    @staticmethod
    def _at(address: str, port: int | None) -> dict[str, Any]:
        return {names.SERVER_ADDRESS: address} | ({} if port is None else {names.SERVER_PORT: port})

    def _put(self, span: RecordedSpan, *, is_remote: bool = True) -> None:
        if self._outbox.refuses():
            return
        try:
            encoded = span.encoded(is_remote=is_remote)
        except Exception:
            log.exception("a span could not be written: did the handler add what has no text?")
            return
        self._outbox.put(encoded)
