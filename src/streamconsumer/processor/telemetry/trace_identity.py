"""What a message's spans have in common: its trace, its producer, and whether they are wanted.

Ids of spans that nobody has to remember.

An attempt's span id is a hash of the group, the message and how often it was begun. So whoever takes a message over
knows the span of the attempt that died with its process, and a dead letter that of the last attempt, though nobody
wrote either down: storing a context when an attempt begins would cost a round trip for each message.
A message without a producer's context gets its trace id in the same way: all its attempts are one trace, and a ratio
samples all of them or none.
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
"""What the producer's context is: the parent of our spans; a link, from a trace and a sampling of our own; nothing."""


class DeterministicIds:
    """Those of one consumer group's messages. `origin` is the id under which a message was first added: a replay, which
    has another id, goes on in its trace."""

    def __init__(self, stream: str, consumer_group: str) -> None:
        self._key = blake2b(f"{stream}\0{consumer_group}".encode(), digest_size=16).digest()

    def trace_id(self, origin: str) -> bytes:
        return blake2b(origin.encode(), digest_size=16, key=self._key).digest()

    def attempt_span_id(self, message_id: str, number: int) -> bytes:
        """The span of an attempt; 1 is the first."""
        return blake2b(f"{message_id} {number}".encode(), digest_size=8, key=self._key).digest()

    def dead_letter_span_id(self, origin: str, replays: int) -> bytes:
        """The span of becoming a dead letter, after so many replays."""
        return blake2b(f"{origin} dead {replays}".encode(), digest_size=8, key=self._key).digest()


def random_trace_id() -> bytes:
    return secrets.token_bytes(16)


def random_span_id() -> bytes:
    return secrets.token_bytes(8)


class TraceIdentity(NamedTuple):
    """Of one message."""

    origin: str
    """The id under which it was first added; a replay has another one."""

    replays: int
    trace_id: bytes
    flags: int
    """Of all its spans."""

    producer: SpanRef | None
    parent: bytes
    """The producer's span, where that is the parent."""

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & 1)


class TraceIdentities:
    """Says of a message what its spans are about; the same in every process of the group."""

    def __init__(self, ids: DeterministicIds, sampler: Sampler, trust: Trust, field: str) -> None:
        self._ids, self._sampler, self._trust, self._field = ids, sampler, trust, field
        self.trace_fields: frozenset[str | bytes] = frozenset([field, field.encode()])
        """The field that may hold a context, whether names are text or bytes."""
        self.never_samples = sampler.never_samples
        """Whether nothing is sampled but what a producer has sampled."""

    def for_message(self, entry: Entry, data: Mapping[Any, Any]) -> TraceIdentity | None:
        """None: nothing is to be recorded, and there is nothing to hand on."""
        found = None if self._trust == "ignore" else extract(data, self._field)
        if self.never_samples and (found is None or self._trust != "parent"):
            return None
        origin, replays = (
            (parse_replay_marks(entry.fields) or (entry.message_id, 0)) if entry.is_replay else (entry.message_id, 0)
        )
        if found is not None and self._trust == "parent":
            wanted = self._sampler.should_sample(found.trace_id, found.is_sampled)
            return TraceIdentity(origin, replays, found.trace_id, found.flags & 2 | wanted, found, found.span_id)
        trace_id = self._ids.trace_id(origin)
        return TraceIdentity(origin, replays, trace_id, int(self._sampler.should_sample(trace_id, None)), found, b"")

    def for_entry(self, entry: Entry) -> TraceIdentity | None:
        """The same of an entry that is not decoded."""
        fields: Sequence[bytes] = entry.fields
        carrier = {name: entry.field_value(name.encode()) for name in (self._field, "tracestate")} if fields else {}
        entry.is_replay = entry.is_replay or entry.has_replay_marks()
        return self.for_message(entry, carrier)
