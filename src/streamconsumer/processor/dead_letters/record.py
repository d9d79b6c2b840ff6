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

FIELD_PREFIX = "streamconsumer."

MAX_MESSAGE_LENGTH = 2000
MAX_NAME_LENGTH = 300
"""In characters: an exception's text may hold the whole message, or a page of HTML."""

_REASON = b"streamconsumer.reason"
_ORIGIN_ID, _REPLAYS, _REPLAYED_FOR = (
    b"streamconsumer.origin-id",
    b"streamconsumer.replays",
    b"streamconsumer.replayed-for",
)
_PACKED = b"streamconsumer.packed"
_REPLAYED_FOR_VARIANTS = (_REPLAYED_FOR, _REPLAYED_FOR.decode())
_MARKS_LENGTH = 6
MIN_LENGTH_WITH_MARKS = _MARKS_LENGTH + 2
"""So many names and values an entry has at least that carries the marks of a replay."""
MAX_FIELDS = 3500
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
class FailureDetails:
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
    def from_error(
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
            error_type=_truncate(_qualified_name(type(error)), MAX_NAME_LENGTH),
            error_message=_truncate(str(TracebackException.from_exception(error, limit=0)), MAX_MESSAGE_LENGTH),
            at=_truncate(_error_location(error), MAX_NAME_LENGTH),
            traceparent=traceparent,
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, read."""

    dead_letter_id: str
    """The entry's id in the stream of dead letters."""

    fields: list[bytes]
    """The original's names and values in turn."""

    failure: FailureDetails
    origin_id: str
    """The id under which the message was first added, kept through every replay."""

    replays: int = 0
    """How often it had been replayed before it failed."""

    @property
    def added_at(self) -> datetime | None:
        """When it was first added; None where its producer chose an id that is no time."""
        return entry_time(self.origin_id)

    @property
    def dead_lettered_at(self) -> datetime | None:
        return entry_time(self.dead_letter_id)


# -- writing and reading ---------------------------------------------------------------------------------------------


def to_fields(original: Sequence[bytes], failure: FailureDetails) -> list[bytes]:
    """The fields of the dead letter: the original's as they are, then the evidence. The marks of a replay are read into
    the evidence and not kept beside it."""
    origin, replays = parse_replay_marks(original) or (failure.message_id, 0)
    told = {
        "reason": failure.reason,
        "stream": failure.stream,
        "group": failure.consumer_group,
        "consumer": failure.consumer,
        "message-id": failure.message_id,
        "origin-id": origin,
        "replays": str(replays),
        "deliveries": str(failure.deliveries),
        "error-type": failure.error_type,
        "error-message": failure.error_message,
        "at": failure.at,
        "traceparent": failure.traceparent,
    }
    ours = [part.encode() for name, text in told.items() if text for part in (FIELD_PREFIX + name, text)]
    return [*_pack(strip_replay_marks(original)), *ours]


def from_fields(dead_letter_id: str, entry_fields: Sequence[bytes]) -> DeadLetter | None:
    """The inverse. None: the entry is no dead letter of ours."""
    entry_fields = strip_replay_marks(
        entry_fields
    )  # of a dead letter that a group handles as its message, and that was replayed to it
    names = entry_fields[::2]
    if _REASON not in names:
        return None
    begin = 2 * (len(names) - 1 - names[::-1].index(_REASON))
    told = {name.decode(errors="backslashreplace"): value for name, value in _to_dict(entry_fields[begin:]).items()}
    texts = {name.removeprefix(FIELD_PREFIX): value.decode(errors="backslashreplace") for name, value in told.items()}
    evidence = FailureDetails(
        reason=texts["reason"],
        stream=texts.get("stream", ""),
        consumer_group=texts.get("group", ""),
        consumer=texts.get("consumer", ""),
        message_id=texts.get("message-id", ""),
        deliveries=_parse_count(told.get("streamconsumer.deliveries")),
        error_type=texts.get("error-type", ""),
        error_message=texts.get("error-message", ""),
        at=texts.get("at", ""),
        traceparent=texts.get("traceparent", ""),
    )
    origin_id = texts.get("origin-id", evidence.message_id)
    return DeadLetter(
        dead_letter_id,
        list(_unpack(entry_fields[:begin])),
        evidence,
        origin_id,
        _parse_count(told.get("streamconsumer.replays")),
    )


# -- replaying -------------------------------------------------------------------------------------------------------


def replay_fields(dead_letter: DeadLetter) -> list[bytes]:
    """The fields of the entry that a replay adds to the stream: the original's, trace context included, and marks."""
    marks = (
        _ORIGIN_ID,
        dead_letter.origin_id,
        _REPLAYS,
        str(dead_letter.replays + 1),
        _REPLAYED_FOR,
        dead_letter.failure.consumer_group,
    )
    return [*_pack(dead_letter.fields), *(part if isinstance(part, bytes) else part.encode() for part in marks)]


def strip_replay_marks(entry_fields: Sequence[bytes]) -> Sequence[bytes]:
    """The fields as the handler gets them: unpacked, and without the marks of a replay."""
    has_marks = (
        len(entry_fields) > _MARKS_LENGTH and entry_fields[-2] == _REPLAYED_FOR and parse_replay_marks(entry_fields)
    )
    return _unpack(entry_fields[:-_MARKS_LENGTH]) if has_marks else entry_fields


def has_replay_marks(entry_fields: Sequence[bytes] | Sequence[str]) -> bool:
    """Whether the entry may carry the marks of a replay: a look that costs nearly nothing."""
    return len(entry_fields) > _MARKS_LENGTH and entry_fields[-2] in _REPLAYED_FOR_VARIANTS


def is_replay_for_other_group(entry_fields: Sequence[bytes], consumer_group: bytes) -> bool:
    """Whether a replay was meant for another group of the stream than this one. Every group of a stream is given every
    entry: one that had handled the message the first time must not do so again because another had not."""
    return (
        len(entry_fields) > _MARKS_LENGTH
        and entry_fields[-2] == _REPLAYED_FOR
        and entry_fields[-1] != consumer_group
        and parse_replay_marks(entry_fields) is not None
    )


def parse_replay_marks(entry_fields: Sequence[bytes]) -> tuple[str, int] | None:
    """Origin and number of replays, if the marks of a replay are what the entry ends with."""
    if len(entry_fields) <= _MARKS_LENGTH:
        return None
    first, origin, second, replays, third = entry_fields[-_MARKS_LENGTH:-1]
    are_marks = (first, second, third) == (_ORIGIN_ID, _REPLAYS, _REPLAYED_FOR)
    if not are_marks or not _ID.fullmatch(origin) or not _NUMBER.fullmatch(replays):
        return None
    return origin.decode(), int(replays)


# -- packing ---------------------------------------------------------------------------------------------------------


def _pack(original: Sequence[bytes]) -> Sequence[bytes]:
    """The original, in one field if it has too many. An original that looks packed is packed too, or `_unpacked` would
    unpack it."""
    if len(original) <= 2 * MAX_FIELDS and not _is_packed(original):
        return original
    return [_PACKED, b"".join([b"%d:%b," % (len(part), part) for part in original])]


def _unpack(entry_fields: Sequence[bytes]) -> Sequence[bytes]:
    """The inverse. Fields that `_packed` did not write are returned unchanged."""
    if not _is_packed(entry_fields):
        return entry_fields
    original: list[bytes] = []
    packed, at = entry_fields[1], 0
    while length := _LENGTH.match(packed, at):
        end = length.end() + int(length[1])
        if packed[end : end + 1] != b",":
            return entry_fields
        original.append(packed[length.end() : end])
        at = end + 1
    return original if at == len(packed) and len(original) % 2 == 0 else entry_fields


def _is_packed(entry_fields: Sequence[bytes]) -> bool:
    return len(entry_fields) == 2 and entry_fields[0] == _PACKED


# -- small things ----------------------------------------------------------------------------------------------------


def entry_time(entry_id: str) -> datetime | None:
    """The time in an entry's id; None where it is beyond what a calendar has."""
    try:
        return datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _to_dict(entry_fields: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(entry_fields[::2], entry_fields[1::2], strict=True))


def _parse_count(raw: Any) -> int:
    return int(raw) if raw and _NUMBER.fullmatch(raw) else 0


def _qualified_name(error_type: type[BaseException]) -> str:
    return (
        error_type.__qualname__
        if error_type.__module__ == "builtins"
        else f"{error_type.__module__}.{error_type.__qualname__}"
    )


def _error_location(error: BaseException) -> str:
    frame, line = None, 0
    for frame, line in walk_tb(error.__traceback__):  # noqa: B007 - the last of them
        pass
    return f"{PurePath(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}" if frame else ""


def _truncate(text: str, max_length: int) -> str:
    """In what UTF-8 can carry."""
    text = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return text.encode(errors="backslashreplace").decode()
