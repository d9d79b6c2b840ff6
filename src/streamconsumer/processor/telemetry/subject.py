"""What a message's spans have in common: its trace, its producer, and whether they are wanted."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from streamconsumer.processor.dead_letters import lineage
from streamconsumer.processor.message import Entry
from streamconsumer.processor.telemetry.context import Remote, producer
from streamconsumer.processor.telemetry.ids import Ids
from streamconsumer.processor.telemetry.sampling import Sampling

Trust = Literal["parent", "link", "ignore"]
"""What the producer's context is: the parent of our spans; a link, from a trace and a sampling of our own; nothing."""


class Subject(NamedTuple):
    """Of one message."""

    origin: str
    """The id under which it was first added; a replay has another one."""

    replays: int
    trace_id: bytes
    flags: int
    """Of all its spans."""

    producer: Remote | None
    parent: bytes
    """The producer's span, where that is the parent."""

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & 1)


class Subjects:
    """Says of a message what its spans are about; the same in every process of the group."""

    def __init__(self, ids: Ids, sampling: Sampling, trust: Trust, field: str) -> None:
        self._ids, self._sampling, self._trust, self._field = ids, sampling, trust, field
        self.carriers: frozenset[str | bytes] = frozenset([field, field.encode()])
        """The field that may hold a context, whether names are text or bytes."""
        self.is_never = sampling.is_never
        """Whether nothing is sampled but what a producer has sampled."""

    def of(self, entry: Entry, data: Mapping[Any, Any]) -> Subject | None:
        """None: nothing is to be recorded, and there is nothing to hand on."""
        found = None if self._trust == "ignore" else producer(data, self._field)
        if self.is_never and (found is None or self._trust != "parent"):
            return None
        origin, replays = (lineage(entry.fields) or (entry.message_id, 0)) if entry.is_replay else (entry.message_id, 0)
        if found is not None and self._trust == "parent":
            wanted = self._sampling.wants(found.trace_id, found.is_sampled)
            return Subject(origin, replays, found.trace_id, found.flags & 2 | wanted, found, found.span_id)
        trace_id = self._ids.trace(origin)
        return Subject(origin, replays, trace_id, int(self._sampling.wants(trace_id, None)), found, b"")

    def of_fields(self, entry: Entry) -> Subject | None:
        """The same of an entry that is not decoded."""
        fields: Sequence[bytes] = entry.fields
        carrier = {name: entry.value(name.encode()) for name in (self._field, "tracestate")} if fields else {}
        entry.is_replay = entry.is_replay or entry.has_marks()
        return self.of(entry, carrier)
