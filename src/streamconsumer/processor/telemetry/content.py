"""The content of spans as plain data: attributes and links.

`Telemetry` encodes it, `ProvidedTelemetry` passes it to a tracer. So both describe an attempt in the same words.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.processor.telemetry import semconv
from streamconsumer.processor.telemetry.trace_context import SpanRef

MIN_ENTRY_TIME_NS = 1_000_000_000 * 1_000_000_000
"""An entry id below is no time."""

NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


Link = tuple[SpanRef, Mapping[str, Any]]
"""The span that a link leads to, and the attributes of the link."""


def group_attributes(stream: str, consumer_group: str) -> dict[str, Any]:
    """Return the attributes of everything that belongs to one consumer group."""
    return {semconv.SYSTEM: "redis", semconv.DESTINATION: stream, semconv.CONSUMER_GROUP: consumer_group}


def operation_attributes(name: str, kind: str, address: str, port: int | None) -> dict[str, Any]:
    """Return the attributes of an operation on a server."""
    return {semconv.OPERATION_NAME: name, semconv.OPERATION_TYPE: kind, **server_attributes(address, port)}


def server_attributes(address: str, port: int | None) -> dict[str, Any]:
    """Return the attributes of a server; a socket has no port."""
    return {semconv.SERVER_ADDRESS: address} | ({} if port is None else {semconv.SERVER_PORT: port})


def message_attributes(entry: Entry) -> dict[str, Any]:
    """Return the attributes that distinguish the messages of a batch."""
    about: dict[str, Any] = {semconv.MESSAGE_ID: entry.message_id}
    if entry.deliveries > 1:
        about[semconv.DELIVERY_COUNT] = entry.deliveries
    return about


def attempt_attributes(entry: Entry, start_ns: int, clock_offset_ns: int) -> dict[str, Any]:
    """Return the attributes of an attempt at one message. The server's clock is ahead by the offset."""
    about = message_attributes(entry)
    if entry.received_ns:
        milliseconds = entry.message_id.partition("-")[0]
        added_ns = int(milliseconds) * 1_000_000 if milliseconds.isdecimal() else 0
        if added_ns > MIN_ENTRY_TIME_NS:
            about[semconv.TIME_IN_STREAM] = max(0, entry.received_ns + clock_offset_ns - added_ns) / 1e9
        about[semconv.TIME_IN_BUFFER] = max(0, start_ns - entry.received_ns) / 1e9
    if entry.claimed_from:
        about[semconv.CLAIMED_FROM] = entry.claimed_from
    return about


def message_links(
    producer: SpanRef | None, related: Mapping[str, SpanRef | None], attributes: Mapping[str, Any] = NO_ATTRIBUTES
) -> list[Link]:
    """Return the links of one message. `others`: spans by `names.LINK`; `about`: attributes of each link."""
    found = [] if producer is None else [(producer, attributes)]
    for kind, to in related.items():
        if to is not None:
            found.append((to, {**attributes, semconv.LINK: kind}))
    return found
