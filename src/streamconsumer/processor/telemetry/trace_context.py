"""Parser of the producer's trace context: the fields `traceparent`, `tracestate` and `baggage`, as text or bytes.

Entries are untrusted, so the parser must handle any content quickly and without an exception. The parser is
hand-written, because OpenTelemetry's propagator takes 4 µs per entry and raises an exception if a field is bytes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

MAX_CARRIER_FIELD_LENGTH = 512
"""Maximum length of a trace context field in characters. A field above this length is ignored."""

MAX_TRACESTATE_MEMBERS = 32
"""Maximum number of tracestate members. A tracestate with more members is dropped as a whole."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_TRACESTATE_MEMBER = re.compile(
    r"[ \t]*([a-z0-9][a-z0-9_\-*/@]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])[ \t]*"
)
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)


class SpanRef(NamedTuple):
    """Reference to a span of another process or of an earlier attempt."""

    trace_id: bytes
    span_id: bytes
    flags: int
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & 1)


def short_text_field(data: Mapping[Any, Any], name: str) -> str | None:
    """Return a field as text. Returns None if the field is missing, not text, or longer than
    `MAX_CARRIER_FIELD_LENGTH`."""
    value = data.get(name)
    if value is None:
        value = data.get(name.encode())
    if isinstance(value, bytes):
        value = value[: MAX_CARRIER_FIELD_LENGTH + 1].decode("ascii", "replace")
    return value if isinstance(value, str) and len(value) <= MAX_CARRIER_FIELD_LENGTH else None


def extract(data: Mapping[Any, Any], name: str = "traceparent") -> SpanRef | None:
    """Return the producer's context, or None if the context is missing or invalid."""
    traceparent = short_text_field(data, name)
    if traceparent is None or (producer := parse_traceparent(traceparent)) is None:
        return None
    state = short_text_field(data, "tracestate")
    return producer._replace(state=_validated_tracestate(state)) if state else producer


def parse_traceparent(traceparent: str) -> SpanRef | None:
    """Parse a `traceparent`. Returns None if the value is invalid.

    The W3C standard allows later versions, but not version 00, to append fields to the value.
    """
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (len(traceparent) > 55 and traceparent.startswith("00")):
        return None
    trace_id, span_id = bytes.fromhex(match[1]), bytes.fromhex(match[2])
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return SpanRef(trace_id, span_id, int(match[3], 16) & 0x03)


def _validated_tracestate(state: str) -> str:
    members = [member for member in state.split(",") if member.strip()]
    keys = {match[1] for member in members if (match := _TRACESTATE_MEMBER.fullmatch(member))}
    return state if len(keys) == len(members) <= MAX_TRACESTATE_MEMBERS else ""


def extract_baggage(data: Mapping[Any, Any], allowed: Sequence[str]) -> dict[str, str]:
    """Return the members of the field `baggage` whose keys are allowed.

    Members with other keys are not trusted, because any program that writes to the stream can set the field. The
    handler passes the returned members on to every service that it calls.
    """
    members: dict[str, str] = {}
    for member in (short_text_field(data, "baggage") or "").split(","):
        key, separator, value = member.partition(";")[0].partition("=")
        if separator and key.strip() in allowed:
            members[key.strip()] = unquote(value.strip())
    return members
