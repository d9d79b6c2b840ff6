"""Identity of a message in traces: trace id, producer and sampling decision, with span ids that need no storage.

The span id of an attempt is a hash of group, message id and attempt number. A consumer that claims a message can
therefore compute the span id of the attempt that another process did not finish. The span of a dead letter can also
link to the last attempt by a computed span id. Storing the span id in Redis when an attempt starts would cost a round
trip per message.

If a message has no trace context of a producer, its trace id is also a hash. All attempts of the message therefore form
one trace, and a sampling ratio samples all of them or none.
"""

import secrets
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from streamconsumer.processor.dead_letters.record import parse_replay_marks
from streamconsumer.processor.message import Entry
from streamconsumer.processor.telemetry.sampling import Sampler
from streamconsumer.processor.telemetry.trace_context import SpanRef, extract

Trust = Literal["parent", "link", "ignore"]
"""Use of the producer's context: as the parent of the spans, as a link from a trace with its own sampling decision, or
not at all."""


class DeterministicIds:
    """Trace and span ids of one consumer group, computed from message ids.

    `origin` is the id under which a message was first added. A replay has another message id, but the same origin and
    therefore the same trace.
    """

    def __init__(self, stream: str, consumer_group: str) -> None:
        self._key = blake2b(f"{stream}\0{consumer_group}".encode(), digest_size=16).digest()

    def trace_id(self, origin: str) -> bytes:
        """Return the trace id of a message without a producer's context."""
        return blake2b(origin.encode(), digest_size=16, key=self._key).digest()

    def attempt_span_id(self, message_id: str, number: int) -> bytes:
        """Return the span id of an attempt. The first attempt has number 1."""
        return blake2b(f"{message_id} {number}".encode(), digest_size=8, key=self._key).digest()

    def dead_letter_span_id(self, origin: str, replays: int) -> bytes:
        """Return the span id of the dead letter that was written after `replays` replays."""
        return blake2b(f"{origin} dead {replays}".encode(), digest_size=8, key=self._key).digest()


def random_trace_id() -> bytes:
    """Return a random trace id."""
    return secrets.token_bytes(16)


def random_span_id() -> bytes:
    """Return a random span id."""
    return secrets.token_bytes(8)


class TraceIdentity(NamedTuple):
    """Trace, producer and sampling decision of one message."""

    origin: str
    """Id under which the message was first added. A replay has another message id."""

    replays: int
    trace_id: bytes
    flags: int
    """Trace flags of all spans of the message."""

    producer: SpanRef | None
    parent: bytes
    """Span id of the producer, if the producer is the parent. Empty otherwise."""

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & 1)


class TraceIdentities:
    """Computes the trace identity of messages. Every process of the group computes the same identity for a message."""

    def __init__(self, ids: DeterministicIds, sampler: Sampler, trust: Trust, field: str) -> None:
        self._ids, self._sampler, self._trust, self._field = ids, sampler, trust, field
        self.trace_fields: frozenset[str | bytes] = frozenset([field, field.encode()])
        """Name of the field that may hold a trace context, once as str and once as bytes."""
        self.never_samples = sampler.never_samples
        """True if the sampling follows the producer: only messages of sampled traces are sampled."""

    def for_message(self, entry: Entry, data: Mapping[Any, Any]) -> TraceIdentity | None:
        """Return the identity of a message. Returns None if there is no span to record and no context to propagate."""
        producer = None if self._trust == "ignore" else extract(data, self._field)
        if self.never_samples and (producer is None or self._trust != "parent"):
            return None
        origin, replays = (
            (parse_replay_marks(entry.fields) or (entry.message_id, 0)) if entry.is_replay else (entry.message_id, 0)
        )
        if producer is not None and self._trust == "parent":
            flags = producer.flags & 2 | self._sampler.should_sample(producer.trace_id, producer.is_sampled)
            return TraceIdentity(origin, replays, producer.trace_id, flags, producer, producer.span_id)
        trace_id = self._ids.trace_id(origin)
        flags = int(self._sampler.should_sample(trace_id, None))
        return TraceIdentity(origin, replays, trace_id, flags, producer, b"")

    def for_entry(self, entry: Entry) -> TraceIdentity | None:
        """Return the identity of an entry whose fields are not decoded."""
        fields: Sequence[bytes] = entry.fields
        carrier = {name: entry.field_value(name.encode()) for name in (self._field, "tracestate")} if fields else {}
        return self.for_message(entry, carrier)
