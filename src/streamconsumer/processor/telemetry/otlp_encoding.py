"""OTLP's protobuf by hand: the few messages that a span is made of.

The SDK's span costs 20 µs and its export another 30, nearly all of it in building objects that are read once. Here a
span becomes bytes when it ends, and what is the same for all spans was made into bytes once. A test decodes them with
the official classes. Field numbers are those of opentelemetry/proto/trace/v1/trace.proto, which only grow.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

_TIMES = Struct("<BQBQ")  # start_time_unix_nano = 7, end_time_unix_nano = 8
_FLAGS = Struct("<I")
_DOUBLE = Struct("<d")
_FIXED64 = Struct("<BQ")
_BYTE = [bytes([number]) for number in range(256)]
_REMOTE_IS_KNOWN, _IS_REMOTE = 0x100, 0x200


def varint(number: int) -> bytes:
    if number < 0x80:
        return number.to_bytes(1, "little")
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def length_delimited(tag: bytes, content: bytes) -> bytes:
    """A field of which the length is told."""
    size = len(content)
    return tag + (_BYTE[size] if size < 0x80 else varint(size)) + content


def string(tag: bytes, text: str) -> bytes:
    return length_delimited(tag, text.encode(errors="backslashreplace"))


def any_value(item: Any) -> bytes:  # noqa: PLR0911 - a line for each kind
    """An AnyValue."""
    match item:
        case str():
            return string(b"\x0a", item)
        case bool():
            return b"\x10\x01" if item else b"\x10\x00"
        case int():
            return b"\x18" + varint(item & 0xFFFFFFFFFFFFFFFF)
        case float():
            return b"\x21" + _DOUBLE.pack(item)
        case bytes():
            return length_delimited(b"\x3a", item)
        case Mapping():
            return length_delimited(
                b"\x32", b"".join(_key_value(b"\x0a", str(key), each) for key, each in item.items())
            )
        case Sequence():
            return length_delimited(b"\x2a", b"".join(length_delimited(b"\x0a", any_value(each)) for each in item))
    return string(b"\x0a", str(item))


@lru_cache(64)
def _key(key: str) -> bytes:
    return string(b"\x0a", key)


@lru_cache(64)
def _double(tag: bytes, key: str) -> bytes:
    """Return what precedes the eight bytes of a double."""
    name = _key(key)
    return tag + varint(len(name) + 11) + name + b"\x12\x09\x21"


def _key_value(tag: bytes, key: str, item: Any) -> bytes:
    """An attribute. Short texts and numbers with a fraction are nearly all that a hot span has: they are encoded in
    one step, which takes a quarter of the time."""
    if type(item) is float:
        return _double(tag, key) + _DOUBLE.pack(item)
    name = _key(key)
    if type(item) is str:
        text = item.encode(errors="backslashreplace")
        size = len(text)
        if (whole := len(name) + size + 4) < 0x80:
            return b"".join((tag, _BYTE[whole], name, b"\x12", _BYTE[size + 2], b"\x0a", _BYTE[size], text))
    return length_delimited(tag, name + length_delimited(b"\x12", any_value(item)))


def attributes(items: Mapping[str, Any], tag: bytes = b"\x4a") -> bytes:
    """The attributes of a span, unless the tag is another's."""
    return b"".join([_key_value(tag, key, each) for key, each in items.items()])


def link(trace_id: bytes, span_id: bytes, flags: int, link_attributes: Mapping[str, Any]) -> bytes:
    """A link; `about` has its attributes."""
    content = (
        b"\x0a\x10"
        + trace_id
        + b"\x12\x08"
        + span_id
        + (attributes(link_attributes, b"\x22") if link_attributes else b"")
    )
    return length_delimited(b"\x6a", content + b"\x35" + _FLAGS.pack(flags | _REMOTE_IS_KNOWN | _IS_REMOTE))


def event(name: str, at_ns: int, event_attributes: Mapping[str, Any]) -> bytes:
    return length_delimited(
        b"\x5a", _FIXED64.pack(9, at_ns) + string(b"\x12", name) + attributes(event_attributes, b"\x1a")
    )


def log_record(
    event_name: str,
    severity: tuple[int, str],
    at_ns: int,
    ids: tuple[bytes, bytes, int],
    record_attributes: Mapping[str, Any],
) -> bytes:
    """A whole one of a span, as a field of its scope. Numbers as in opentelemetry/proto/logs/v1/logs.proto."""
    number, word = severity
    trace_id, span_id, flags = ids
    parts = (
        _FIXED64.pack(0x09, at_ns),
        _FIXED64.pack(0x59, at_ns),  # observed
        b"\x10" + varint(number),
        string(b"\x1a", word),
        attributes(record_attributes, b"\x32"),
        b"\x45" + _FLAGS.pack(flags),
        b"\x4a\x10" + trace_id,
        b"\x52\x08" + span_id,
        string(b"\x62", event_name),
    )
    return length_delimited(b"\x12", b"".join(parts))


def error_status(message: str) -> bytes:
    """A status."""
    return length_delimited(b"\x7a", string(b"\x12", message) + b"\x18\x02")


def ok_status() -> bytes:
    """A status too; never ours, but a handler may say so."""
    return b"\x7a\x02\x18\x01"


@lru_cache(16)
def span_head(name: str, kind: int) -> bytes:
    """What does not change between the spans of an operation. `kind` counts as OTLP does: 3 is a CLIENT."""
    return string(b"\x2a", name) + b"\x30" + varint(kind)


def span(
    trace_id: bytes,
    span_id: bytes,
    flags: int,
    times: tuple[int, int],
    parts: Iterable[bytes],
    *,
    parent: bytes = b"",
    is_remote: bool = True,
    state: str = "",
) -> bytes:
    """A whole one, as a field of its scope. `parts`: head, attributes, links, events and status, in any order."""
    flags |= _REMOTE_IS_KNOWN | _IS_REMOTE if parent and is_remote else _REMOTE_IS_KNOWN
    body = b"".join(
        (
            b"\x0a\x10",
            trace_id,
            b"\x12\x08",
            span_id,
            b"\x22\x08" + parent if parent else b"",
            string(b"\x1a", state) if state else b"",
            b"\x85\x01",
            _FLAGS.pack(flags),
            _TIMES.pack(0x39, times[0], 0x41, times[1]),
            *parts,
        )
    )
    return b"\x12" + varint(len(body)) + body


class ExportRequest:
    """An ExportTraceServiceRequest of so many spans of one scope of one process; of log records it is an
    ExportLogsServiceRequest, which has the same numbers."""

    def __init__(self, resource: Mapping[str, Any], scope: str, version: str, schema_url: str) -> None:
        self._resource = length_delimited(b"\x0a", attributes(resource, b"\x0a"))
        self._scope = length_delimited(b"\x0a", string(b"\x0a", scope) + string(b"\x12", version))
        self._schema = string(b"\x1a", schema_url)

    def encode(self, spans: Iterable[bytes]) -> bytes:
        of_scope = length_delimited(b"\x12", b"".join((self._scope, *spans, self._schema)))
        return length_delimited(b"\x0a", self._resource + of_scope)
