"""Dead letters as people and programs read them. Pure.

What a message or an exception says may hold anything: on a terminal it must not become colour, movement or a second
line, so what cannot be printed is shown as Python would write it.
"""

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from streamconsumer.cli.status.screen import age, printable
from streamconsumer.processor.dead_letters.record import DeadLetter

HEADER = f"{'ID':<18}  {'AGE':>5}  {'REASON':<13}  {'DELIVERIES':>10}  ERROR"


def row(letter: DeadLetter, now: datetime, width: int | None) -> str:
    """One line, cut where the terminal ends."""
    evidence = letter.evidence
    error = ": ".join(part for part in (evidence.error_type, evidence.error_message) if part)
    line = (
        f"{letter.dead_letter_id:<18}  {_age(letter, now):>5}  {printable(evidence.reason):<13}  "
        f"{evidence.deliveries:>10}  {printable(error)}"
    ).rstrip()
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def details(letter: DeadLetter, now: datetime) -> Iterator[str]:
    """All that is known, a line each."""
    evidence = letter.evidence
    known = {
        "id": letter.dead_letter_id,
        "dead-lettered": _when(letter.dead_lettered_at, now),
        "reason": evidence.reason,
        "error": evidence.error_type,
        "message": evidence.error_message,
        "at": evidence.at,
        "stream": evidence.stream,
        "group": evidence.consumer_group,
        "consumer": evidence.consumer,
        "message id": evidence.message_id,
        "first added": f"{_when(letter.added_at, now)} as {letter.origin_id}",
        "deliveries": str(evidence.deliveries),
        "replays": str(letter.replays),
        "last attempt": evidence.traceparent,
    }
    for name, text in known.items():
        if text:
            yield f"{name + ':':<15}{printable(text)}"
    yield "fields:"
    yield from (f"  {_shown(name)} = {_shown(value)}" for name, value in _pairs(letter))


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """All that is known. A field's `name` and `value` are text; what is not UTF-8 is `nameBase64` or `valueBase64`."""
    evidence = letter.evidence
    return {
        "id": letter.dead_letter_id,
        "deadLetteredAt": _iso(letter.dead_lettered_at),
        "reason": str(evidence.reason),
        "error": {"type": evidence.error_type, "message": evidence.error_message, "at": evidence.at},
        "stream": evidence.stream,
        "consumerGroup": evidence.consumer_group,
        "consumer": evidence.consumer,
        "messageId": evidence.message_id,
        "originId": letter.origin_id,
        "addedAt": _iso(letter.added_at),
        "deliveries": evidence.deliveries,
        "replays": letter.replays,
        "traceparent": evidence.traceparent or None,
        "fields": [{**_json("name", name), **_json("value", value)} for name, value in _pairs(letter)],
    }


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _shown(value: bytes) -> str:
    try:
        return printable(value.decode())
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"


def _json(name: str, value: bytes) -> dict[str, str]:
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(value).decode()}


def _pairs(letter: DeadLetter) -> Iterator[tuple[bytes, bytes]]:
    return zip(letter.fields[::2], letter.fields[1::2], strict=True)


def _age(letter: DeadLetter, now: datetime) -> str:
    return age(letter.dead_lettered_at, now) if letter.dead_lettered_at else "?"


def _when(then: datetime | None, now: datetime) -> str:
    return f"{_iso(then)} ({age(then, now)} ago)" if then else "at a time that its id does not tell"


def _iso(then: datetime | None) -> str | None:
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z") if then else None
