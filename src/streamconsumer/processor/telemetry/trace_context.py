"""The producer's context from an entry's fields: plain `traceparent` and `tracestate`, text or bytes.

An entry is foreign: nothing in it may raise here, nor make a consumer work much. It is read by hand, because the
propagator of OpenTelemetry takes 4 µs and raises at bytes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

MAX_CARRIER_FIELD_LENGTH = 512
"""Longer context is not parsed."""

MAX_TRACESTATE_MEMBERS = 32
"""So many members a tracestate may have; one with more is dropped as a whole."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_TRACESTATE_MEMBER = re.compile(
    r"[ \t]*([a-z0-9][a-z0-9_\-*/@]{0,255})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])[ \t]*"
)
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)


class SpanRef(NamedTuple):
    """A span of somebody else, or of another time."""

    trace_id: bytes
    span_id: bytes
    flags: int
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & 1)


def short_text_field(data: Mapping[Any, Any], name: str) -> str | None:
    """A field, if it is there, short and ASCII."""
    value = data.get(name)
    if value is None:
        value = data.get(name.encode())
    if isinstance(value, bytes):
        value = value[: MAX_CARRIER_FIELD_LENGTH + 1].decode("ascii", "replace")
    return value if isinstance(value, str) and len(value) <= MAX_CARRIER_FIELD_LENGTH else None


def extract(data: Mapping[Any, Any], name: str = "traceparent") -> SpanRef | None:
    """None where there is no context or it is garbage."""
    found = short_text_field(data, name)
    if found is None or (parsed := parse_traceparent(found)) is None:
        return None
    state = short_text_field(data, "tracestate")
    return parsed._replace(state=_validated_tracestate(state)) if state else parsed


def parse_traceparent(traceparent: str) -> SpanRef | None:
    """A version that is not known yet may have more behind, as the standard says; version 0 may not."""
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
    """The members of the field `baggage` whose keys are allowed: it comes from whoever may write to the stream, and
    would go on to whomever the handler calls."""
    found: dict[str, str] = {}
    for member in (short_text_field(data, "baggage") or "").split(","):
        key, separator, value = member.partition(";")[0].partition("=")
        if separator and key.strip() in allowed:
            found[key.strip()] = unquote(value.strip())
    return found
