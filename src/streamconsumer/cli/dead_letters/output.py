"""Dead letters as people and programs read them. Pure.

What a message or an exception says may hold anything: on a terminal it must not become colour, movement or a second
line, so what cannot be printed is shown as Python would write it.
"""

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from streamconsumer.cli.status.screen import escape_unprintable, format_age
from streamconsumer.processor.dead_letters.record import DeadLetter

HEADER = f"{'ID':<18}  {'AGE':>5}  {'REASON':<13}  {'DELIVERIES':>10}  ERROR"


def row(dead_letter: DeadLetter, now: datetime, width: int | None) -> str:
    """One line, cut where the terminal ends."""
    evidence = dead_letter.failure
    error = ": ".join(part for part in (evidence.error_type, evidence.error_message) if part)
    line = (
        f"{dead_letter.dead_letter_id:<18}  {_format_age(dead_letter, now):>5}  {escape_unprintable(evidence.reason):<13}  "
        f"{evidence.deliveries:>10}  {escape_unprintable(error)}"
    ).rstrip()
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def details(dead_letter: DeadLetter, now: datetime) -> Iterator[str]:
    """All that is known, a line each."""
    evidence = dead_letter.failure
    known = {
        "id": dead_letter.dead_letter_id,
        "dead-lettered": _format_time(dead_letter.dead_lettered_at, now),
        "reason": evidence.reason,
        "error": evidence.error_type,
        "message": evidence.error_message,
        "at": evidence.at,
        "stream": evidence.stream,
        "group": evidence.consumer_group,
        "consumer": evidence.consumer,
        "message id": evidence.message_id,
        "first added": f"{_format_time(dead_letter.added_at, now)} as {dead_letter.origin_id}",
        "deliveries": str(evidence.deliveries),
        "replays": str(dead_letter.replays),
        "last attempt": evidence.traceparent,
    }
    for name, text in known.items():
        if text:
            yield f"{name + ':':<15}{escape_unprintable(text)}"
    yield "fields:"
    yield from (f"  {_printable_bytes(name)} = {_printable_bytes(value)}" for name, value in _field_pairs(dead_letter))


def as_json(dead_letter: DeadLetter) -> dict[str, Any]:
    """All that is known. A field's `name` and `value` are text; what is not UTF-8 is `nameBase64` or `valueBase64`."""
    evidence = dead_letter.failure
    return {
        "id": dead_letter.dead_letter_id,
        "deadLetteredAt": _to_iso(dead_letter.dead_lettered_at),
        "reason": str(evidence.reason),
        "error": {"type": evidence.error_type, "message": evidence.error_message, "at": evidence.at},
        "stream": evidence.stream,
        "consumerGroup": evidence.consumer_group,
        "consumer": evidence.consumer,
        "messageId": evidence.message_id,
        "originId": dead_letter.origin_id,
        "addedAt": _to_iso(dead_letter.added_at),
        "deliveries": evidence.deliveries,
        "replays": dead_letter.replays,
        "traceparent": evidence.traceparent or None,
        "fields": [
            {**_json_field("name", name), **_json_field("value", value)} for name, value in _field_pairs(dead_letter)
        ],
    }


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _printable_bytes(value: bytes) -> str:
    try:
        return escape_unprintable(value.decode())
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"


def _json_field(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(value).decode()}


def _field_pairs(dead_letter: DeadLetter) -> Iterator[tuple[bytes, bytes]]:
    return zip(dead_letter.fields[::2], dead_letter.fields[1::2], strict=True)


def _format_age(dead_letter: DeadLetter, now: datetime) -> str:
    return format_age(dead_letter.dead_lettered_at, now) if dead_letter.dead_lettered_at else "?"


def _format_time(timestamp: datetime | None, now: datetime) -> str:
    return (
        f"{_to_iso(timestamp)} ({format_age(timestamp, now)} ago)"
        if timestamp
        else "at a time that its id does not tell"
    )


def _to_iso(timestamp: datetime | None) -> str | None:
    return timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z") if timestamp else None
