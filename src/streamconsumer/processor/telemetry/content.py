"""Content of spans as plain data: attributes and links.

`SpanRecorder` encodes the attributes and links. `TracerProviderTracing` passes them to a tracer. Both classes therefore
describe an attempt in the same way.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.processor.telemetry import semconv
from streamconsumer.processor.telemetry.trace_context import SpanRef
from streamconsumer.processor.telemetry.trace_identity import DeterministicIds, TraceIdentity

MIN_ENTRY_TIME_NS = 1_000_000_000 * 1_000_000_000
"""Smallest plausible time in an entry id, in nanoseconds since 1970. An id with a smaller time was chosen by the
producer."""

NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})

Link = tuple[SpanRef, Mapping[str, Any]]
"""Linked span and the attributes of the link."""


def group_attributes(stream: str, consumer_group: str) -> dict[str, Any]:
    """Return the attributes that identify a consumer group."""
    return {semconv.SYSTEM: "redis", semconv.DESTINATION: stream, semconv.CONSUMER_GROUP: consumer_group}


def operation_attributes(name: str, kind: str, address: str, port: int | None) -> dict[str, Any]:
    """Return the attributes of an operation and its server."""
    return {semconv.OPERATION_NAME: name, semconv.OPERATION_TYPE: kind, **server_attributes(address, port)}


def server_attributes(address: str, port: int | None) -> dict[str, Any]:
    """Return the attributes of a server. A Unix socket has no port."""
    return {semconv.SERVER_ADDRESS: address} | ({} if port is None else {semconv.SERVER_PORT: port})


def message_attributes(entry: Entry) -> dict[str, Any]:
    """Return the attributes that distinguish the messages of a batch."""
    attributes: dict[str, Any] = {semconv.MESSAGE_ID: entry.message_id}
    if entry.deliveries > 1:
        attributes[semconv.DELIVERY_COUNT] = entry.deliveries
    return attributes


def attempt_attributes(entry: Entry, start_ns: int, clock_offset_ns: int) -> dict[str, Any]:
    """Return the attributes of an attempt to handle one message.

    `clock_offset_ns` is the time by which the server's clock is ahead of this machine's clock.
    """
    attributes = message_attributes(entry)
    if entry.received_ns:
        milliseconds = entry.message_id.partition("-")[0]
        added_ns = int(milliseconds) * 1_000_000 if milliseconds.isdecimal() else 0
        if added_ns > MIN_ENTRY_TIME_NS:
            attributes[semconv.TIME_IN_STREAM] = max(0, entry.received_ns + clock_offset_ns - added_ns) / 1e9
        attributes[semconv.TIME_IN_BUFFER] = max(0, start_ns - entry.received_ns) / 1e9
    if entry.claimed_from:
        attributes[semconv.CLAIMED_FROM] = entry.claimed_from
    return attributes


def message_links(
    producer: SpanRef | None, related: Mapping[str, SpanRef | None], attributes: Mapping[str, Any] = NO_ATTRIBUTES
) -> list[Link]:
    """Return the links of one message to its producer and to the related spans.

    `related` contains a span for each kind of link; `semconv.LINK` describes the kinds. Each link has the attributes in
    `attributes`.
    """
    links = [] if producer is None else [(producer, attributes)]
    for kind, span in related.items():
        if span is not None:
            links.append((span, {**attributes, semconv.LINK: kind}))
    return links


class RelatedSpans:
    """Computes references to spans of other attempts and processes. The spans of a message link to the referenced
    spans.

    `is_batch` is True if the handler takes batches. The span ids of batches are random and cannot be computed.
    """

    def __init__(self, ids: DeterministicIds, *, is_batch: bool) -> None:
        self._ids, self._is_batch = ids, is_batch

    def attempt(self, entry: Entry, identity: TraceIdentity, number: int) -> SpanRef | None:
        """Return the span of an attempt in another process. Returns None if the handler takes batches."""
        if self._is_batch or number < 1:
            return None
        return SpanRef(identity.trace_id, self._ids.attempt_span_id(entry.message_id, number), identity.flags)

    def preceding(self, entry: Entry, identity: TraceIdentity) -> dict[str, SpanRef | None]:
        """Return the spans that precede an attempt. The keys of the dict are the kinds of the links to the preceding
        spans."""
        preceding: dict[str, SpanRef | None] = {}
        if entry.deliveries > 1 or entry.had_uncounted_attempt:
            previous = entry.last_attempt_span or self.attempt(entry, identity, entry.deliveries - 1)
            preceding["previous_attempt"] = previous
        if entry.claim_span is not None:
            preceding["claim"] = entry.claim_span
        if identity.replays:
            span_id = self._ids.dead_letter_span_id(identity.origin, identity.replays - 1)
            preceding["dead_letter"] = SpanRef(identity.trace_id, span_id, identity.flags)
        return preceding
