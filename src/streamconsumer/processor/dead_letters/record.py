"""Dead letters: what a message becomes that could not be handled, and what becomes of it again. Pure: fields in, fields
out.

A dead letter is the entry's fields as they were and, behind them, ours: `streamconsumer.reason` first. What stands
before the last of that name is the original, whatever it calls its own fields; so even the dead letter of a dead letter
is read rightly.

A replayed entry is the original fields and three marks at the very end: where it came from, how often, and for which
group. They are looked for at the end alone: a message that has none pays for two comparisons.

A script cannot add an entry of more than about 4000 fields. A dead letter or a replay of an original with more than
MOST_FIELDS therefore holds all names and values of the original in one field, `streamconsumer.packed`, as netstrings
(`5:hello,`). `parse` and `strip` unpack that field.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePath
from traceback import TracebackException, walk_tb
from typing import Any, Self

PREFIX = "streamconsumer."

LONGEST_MESSAGE = 2000
LONGEST_NAME = 300
"""In characters: an exception's text may hold the whole message, or a page of HTML."""

_REASON = b"streamconsumer.reason"
_ORIGIN, _REPLAYS, _FOR = b"streamconsumer.origin-id", b"streamconsumer.replays", b"streamconsumer.replayed-for"
_PACKED = b"streamconsumer.packed"
_FOR_EITHER = (_FOR, _FOR.decode())
_MARKS = 6
LEAST_WITH_MARKS = _MARKS + 2
"""So many names and values an entry has at least that carries the marks of a replay."""
MOST_FIELDS = 3500
"""Number of fields of an original that is not packed. Lua's `unpack` returns fewer than 8000 values."""
_ID = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_NUMBER = re.compile(rb"[0-9]{1,9}")
_LENGTH = re.compile(rb"([0-9]{1,9}):")


class DeadLetterReason(StrEnum):
    """Why a message is a dead letter."""

    MAX_DELIVERIES = "MaxDeliveries"
    """It failed each time; `delivery.maxDeliveries` were given to it."""

    REJECTED = "Rejected"
    """The handler raised Reject."""

    TERMINAL_ERROR = "TerminalError"
    """The handler raised one of `delivery.terminalErrors`."""

    UNDECODABLE = "Undecodable"
    """It is not text although `encoding` is utf-8."""

    OVERSIZED = "Oversized"
    """It is larger than `delivery.maxEntryBytes`."""

    CRASHED = "Crashed"
    """It was begun `delivery.maxDeliveries` times and nobody ever learnt of an outcome: it kills its process."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a message's end. When it was added and when it became a dead letter stands in the two ids, by
    the server's clock."""

    reason: str
    """A DeadLetterReason; another word if a later version wrote it."""

    stream: str
    consumer_group: str
    consumer: str
    message_id: str
    """Of the entry that failed. That of the first of its line is the dead letter's `origin_id`."""

    deliveries: int
    error_type: str = ""
    """As `delivery.terminalErrors` would name it."""

    error_message: str = ""
    at: str = ""
    """The innermost place of the traceback: `orders.py:15 in handle`."""

    traceparent: str = ""
    """Of the last attempt's span. The producer's is in the original fields."""

    @classmethod
    def of(
        cls,
        error: BaseException,
        *,
        reason: DeadLetterReason,
        stream: str,
        consumer_group: str,
        consumer: str,
        message_id: str,
        deliveries: int,
        traceparent: str = "",
    ) -> Self:
        """With what the exception tells, bounded. It may fail even at that, or tell what UTF-8 cannot carry."""
        return cls(
            reason=reason,
            stream=stream,
            consumer_group=consumer_group,
            consumer=consumer,
            message_id=message_id,
            deliveries=deliveries,
            error_type=_bounded(_name(type(error)), LONGEST_NAME),
            error_message=_bounded(str(TracebackException.from_exception(error, limit=0)), LONGEST_MESSAGE),
            at=_bounded(_place(error), LONGEST_NAME),
            traceparent=traceparent,
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, read."""

    dead_letter_id: str
    """The entry's id in the stream of dead letters."""

    fields: list[bytes]
    """The original's names and values in turn."""

    evidence: Evidence
    origin_id: str
    """The id under which the message was first added, kept through every replay."""

    replays: int = 0
    """How often it had been replayed before it failed."""

    @property
    def added_at(self) -> datetime | None:
        """When it was first added; None where its producer chose an id that is no time."""
        return instant(self.origin_id)

    @property
    def dead_lettered_at(self) -> datetime | None:
        return instant(self.dead_letter_id)


# -- writing and reading ---------------------------------------------------------------------------------------------


def fields(original: Sequence[bytes], evidence: Evidence) -> list[bytes]:
    """The fields of the dead letter: the original's as they are, then the evidence. The marks of a replay are read into
    the evidence and not kept beside it."""
    origin, replays = lineage(original) or (evidence.message_id, 0)
    told = {
        "reason": evidence.reason,
        "stream": evidence.stream,
        "group": evidence.consumer_group,
        "consumer": evidence.consumer,
        "message-id": evidence.message_id,
        "origin-id": origin,
        "replays": str(replays),
        "deliveries": str(evidence.deliveries),
        "error-type": evidence.error_type,
        "error-message": evidence.error_message,
        "at": evidence.at,
        "traceparent": evidence.traceparent,
    }
    ours = [part.encode() for name, text in told.items() if text for part in (PREFIX + name, text)]
    return [*_packed(strip(original)), *ours]


def parse(dead_letter_id: str, found: Sequence[bytes]) -> DeadLetter | None:
    """The inverse. None: the entry is no dead letter of ours."""
    found = strip(found)  # of a dead letter that a group handles as its message, and that was replayed to it
    names = found[::2]
    if _REASON not in names:
        return None
    begin = 2 * (len(names) - 1 - names[::-1].index(_REASON))
    told = {name.decode(errors="backslashreplace"): value for name, value in _pairs(found[begin:]).items()}
    texts = {name.removeprefix(PREFIX): value.decode(errors="backslashreplace") for name, value in told.items()}
    evidence = Evidence(
        reason=texts["reason"],
        stream=texts.get("stream", ""),
        consumer_group=texts.get("group", ""),
        consumer=texts.get("consumer", ""),
        message_id=texts.get("message-id", ""),
        deliveries=_number(told.get("streamconsumer.deliveries")),
        error_type=texts.get("error-type", ""),
        error_message=texts.get("error-message", ""),
        at=texts.get("at", ""),
        traceparent=texts.get("traceparent", ""),
    )
    origin_id = texts.get("origin-id", evidence.message_id)
    return DeadLetter(
        dead_letter_id, list(_unpacked(found[:begin])), evidence, origin_id, _number(told.get("streamconsumer.replays"))
    )


# -- replaying -------------------------------------------------------------------------------------------------------


def replayed(letter: DeadLetter) -> list[bytes]:
    """The fields of the entry that a replay adds to the stream: the original's, trace context included, and marks."""
    marks = (_ORIGIN, letter.origin_id, _REPLAYS, str(letter.replays + 1), _FOR, letter.evidence.consumer_group)
    return [*_packed(letter.fields), *(part if isinstance(part, bytes) else part.encode() for part in marks)]


def strip(found: Sequence[bytes]) -> Sequence[bytes]:
    """The fields as the handler gets them: unpacked, and without the marks of a replay."""
    has_marks = len(found) > _MARKS and found[-2] == _FOR and lineage(found)
    return _unpacked(found[:-_MARKS]) if has_marks else found


def is_replay(found: Sequence[bytes] | Sequence[str]) -> bool:
    """Whether the entry may carry the marks of a replay: a look that costs nearly nothing."""
    return len(found) > _MARKS and found[-2] in _FOR_EITHER


def is_for_another(found: Sequence[bytes], consumer_group: bytes) -> bool:
    """Whether a replay was meant for another group of the stream than this one. Every group of a stream is given every
    entry: one that had handled the message the first time must not do so again because another had not."""
    return len(found) > _MARKS and found[-2] == _FOR and found[-1] != consumer_group and lineage(found) is not None


def lineage(found: Sequence[bytes]) -> tuple[str, int] | None:
    """Origin and number of replays, if the marks of a replay are what the entry ends with."""
    if len(found) <= _MARKS:
        return None
    first, origin, second, replays, third = found[-_MARKS:-1]
    are_marks = (first, second, third) == (_ORIGIN, _REPLAYS, _FOR)
    if not are_marks or not _ID.fullmatch(origin) or not _NUMBER.fullmatch(replays):
        return None
    return origin.decode(), int(replays)


# -- packing ---------------------------------------------------------------------------------------------------------


def _packed(original: Sequence[bytes]) -> Sequence[bytes]:
    """The original, in one field if it has too many. An original that looks packed is packed too, or `_unpacked` would
    unpack it."""
    if len(original) <= 2 * MOST_FIELDS and not _is_packed(original):
        return original
    return [_PACKED, b"".join([b"%d:%b," % (len(part), part) for part in original])]


def _unpacked(found: Sequence[bytes]) -> Sequence[bytes]:
    """The inverse. Fields that `_packed` did not write are returned unchanged."""
    if not _is_packed(found):
        return found
    original: list[bytes] = []
    packed, at = found[1], 0
    while length := _LENGTH.match(packed, at):
        end = length.end() + int(length[1])
        if packed[end : end + 1] != b",":
            return found
        original.append(packed[length.end() : end])
        at = end + 1
    return original if at == len(packed) and len(original) % 2 == 0 else found


def _is_packed(found: Sequence[bytes]) -> bool:
    return len(found) == 2 and found[0] == _PACKED


# -- small things ----------------------------------------------------------------------------------------------------


def instant(entry_id: str) -> datetime | None:
    """The time in an entry's id; None where it is beyond what a calendar has."""
    try:
        return datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _pairs(found: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(found[::2], found[1::2], strict=True))


def _number(found: Any) -> int:
    return int(found) if found and _NUMBER.fullmatch(found) else 0


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _place(error: BaseException) -> str:
    frame, line = None, 0
    for frame, line in walk_tb(error.__traceback__):  # noqa: B007 - the last of them
        pass
    return f"{PurePath(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}" if frame else ""


def _bounded(text: str, longest: int) -> str:
    """In what UTF-8 can carry."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return text.encode(errors="backslashreplace").decode()
