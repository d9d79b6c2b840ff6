"""Formats dead letters as text and as JSON. The functions have no side effects.

The texts of messages and exceptions are untrusted, so unprintable characters are escaped here, before columns are
aligned and lines are truncated.
"""

import base64
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from streamconsumer.cli.status.screen import format_age
from streamconsumer.processor.dead_letters.record import DeadLetter
from streamconsumer.text import printable

HEADER = f"{'ID':<18}  {'AGE':>5}  {'REASON':<13}  {'DELIVERIES':>10}  ERROR"

MAX_REASON_LENGTH, MAX_ERROR_LENGTH = 40, 1000
"""Maximum number of characters of each reason and of each error in the list. `details` returns the whole texts."""


def row(dead_letter: DeadLetter, now: datetime, width: int | None) -> str:
    """Format one line of the list. If `width` is not None, the line is truncated to `width` characters."""
    failure = dead_letter.failure
    error = ": ".join(part for part in (failure.error_type, failure.error_message) if part)
    age, reason = _format_age(dead_letter, now), printable(failure.reason, MAX_REASON_LENGTH)
    error = printable(error, MAX_ERROR_LENGTH)
    line = f"{dead_letter.dead_letter_id:<18}  {age:>5}  {reason:<13}  {failure.deliveries:>10}  {error}".rstrip()
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def details(dead_letter: DeadLetter, now: datetime) -> Iterator[str]:
    """Format the details of the failure and the fields of the message, one per line."""
    failure = dead_letter.failure
    rows = {
        "id": dead_letter.dead_letter_id,
        "dead-lettered": _format_time(dead_letter.dead_lettered_at, now),
        "reason": failure.reason,
        "error": failure.error_type,
        "message": failure.error_message,
        "at": failure.at,
        "stream": failure.stream,
        "group": failure.consumer_group,
        "consumer": failure.consumer,
        "message id": failure.message_id,
        "first added": f"{_format_time(dead_letter.added_at, now)} as {dead_letter.origin_id}",
        "deliveries": str(failure.deliveries),
        "replays": str(dead_letter.replays),
        "last attempt": failure.traceparent,
    }
    for name, text in rows.items():
        if text:
            yield f"{name + ':':<15}{printable(text)}"
    yield "fields:"
    value_format = "({} bytes, not stored)" if dead_letter.is_unreadable else "{}"
    for field_name, value in _field_pairs(dead_letter):
        yield f"  {_printable_bytes(field_name)} = {value_format.format(_printable_bytes(value))}"


def as_json(dead_letter: DeadLetter) -> dict[str, Any]:
    """Return the dead letter as a JSON document.

    For each field of the message, the document contains `name` and `value` as text. If a name or a value is not valid
    UTF-8, `nameBase64` or `valueBase64` contains the bytes in base64. If the message is unreadable, its fields have
    `sizeBytes` instead of `value`.
    """
    failure = dead_letter.failure
    json_value = _json_size if dead_letter.is_unreadable else _json_value
    return {
        "id": dead_letter.dead_letter_id,
        "deadLetteredAt": _to_iso(dead_letter.dead_lettered_at),
        "reason": str(failure.reason),
        "error": {"type": failure.error_type, "message": failure.error_message, "at": failure.at},
        "stream": failure.stream,
        "consumerGroup": failure.consumer_group,
        "consumer": failure.consumer,
        "messageId": failure.message_id,
        "originId": dead_letter.origin_id,
        "addedAt": _to_iso(dead_letter.added_at),
        "deliveries": failure.deliveries,
        "replays": dead_letter.replays,
        "traceparent": failure.traceparent or None,
        "fields": [{**_json_field("name", name), **json_value(value)} for name, value in _field_pairs(dead_letter)],
    }


def _printable_bytes(value: bytes) -> str:
    try:
        return printable(value.decode())
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"


def _json_field(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(value).decode()}


def _json_value(value: bytes) -> dict[str, str]:
    return _json_field("value", value)


def _json_size(value: bytes) -> dict[str, int | None]:
    return {"sizeBytes": int(value) if value.isdigit() else None}


def _field_pairs(dead_letter: DeadLetter) -> Iterator[tuple[bytes, bytes]]:
    return zip(dead_letter.fields[::2], dead_letter.fields[1::2], strict=True)


def _format_age(dead_letter: DeadLetter, now: datetime) -> str:
    return format_age(dead_letter.dead_lettered_at, now) if dead_letter.dead_lettered_at else "?"


def _format_time(timestamp: datetime | None, now: datetime) -> str:
    return f"{_to_iso(timestamp)} ({format_age(timestamp, now)} ago)" if timestamp else "unknown: the id has no time"


def _to_iso(timestamp: datetime | None) -> str | None:
    return timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z") if timestamp else None
