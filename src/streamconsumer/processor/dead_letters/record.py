"""Record format of dead letters and of replayed entries. The functions in this module have no side effects.

A dead letter consists of the unchanged fields of the entry, followed by the failure fields. The first failure field is
`streamconsumer.reason`. All fields before the last field named `streamconsumer.reason` are original fields, even if an
original field has the same name. If a group reads a dead-letter stream and one of its entries fails again, the new dead
letter is therefore parsed correctly.

A replayed entry consists of the original fields, followed by three replay marks: the origin id, the number of replays,
and the consumer group that the entry is replayed for. Only the end of an entry is checked for replay marks, so that the
check takes two comparisons for most entries.

A Lua script cannot add an entry with more than about 4000 fields. If the original entry has more than MAX_FIELDS
fields, its dead letter or replayed entry stores all names and values in one field, `streamconsumer.packed`, as
netstrings (`5:hello,`). `from_fields` and `strip_replay_marks` unpack the field `streamconsumer.packed`.
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
"""Maximum lengths of failure fields in characters. An exception's text may contain a whole message or web page."""

_REASON = b"streamconsumer.reason"
_ORIGIN_ID, _REPLAYS, _REPLAYED_FOR = (
    b"streamconsumer.origin-id",
    b"streamconsumer.replays",
    b"streamconsumer.replayed-for",
)
_PACKED = b"streamconsumer.packed"
REPLAYED_FOR = _REPLAYED_FOR.decode()
"""Name of the last field of an entry with replay marks."""
_REPLAYED_FOR_VARIANTS = (_REPLAYED_FOR, REPLAYED_FOR)
_MARKS_LENGTH = 6
MIN_LENGTH_WITH_MARKS = _MARKS_LENGTH + 2
"""Minimum number of names and values in an entry with replay marks."""
MAX_FIELDS = 3500
"""Maximum number of original fields that are stored without packing. Lua's `unpack` returns fewer than 8000 values."""
_ID = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_NUMBER = re.compile(rb"[0-9]{1,9}")
_LENGTH = re.compile(rb"([0-9]{1,9}):")


class DeadLetterReason(StrEnum):
    """Reason why a message became a dead letter."""

    MAX_DELIVERIES = "MaxDeliveries"
    """Each of the `delivery.maxDeliveries` attempts failed."""

    REJECTED = "Rejected"
    """The handler raised Reject."""

    TERMINAL_ERROR = "TerminalError"
    """The handler raised an error that `delivery.terminalErrors` names."""

    UNDECODABLE = "Undecodable"
    """The message is not valid text although `encoding` is utf-8."""

    OVERSIZED = "Oversized"
    """The message is larger than `delivery.maxEntryBytes`."""

    UNREADABLE = "Unreadable"
    """The entry is too large for the memory of the pod or for its connection. The dead letter contains the field names
    and the size of each value, but no values. Field names may be truncated or missing."""

    CRASHED = "Crashed"
    """The handling of the message started `delivery.maxDeliveries` times and never finished. The message probably
    crashes the process that handles it."""


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """Details of a failed message.

    The ids of the original entry and of the dead letter contain the times at which these entries were added.
    """

    reason: str
    """Value of a DeadLetterReason, or a reason that only a later version of StreamConsumer defines."""

    stream: str
    consumer_group: str
    consumer: str
    message_id: str
    """Id of the entry that failed. If the entry was a replay, this id differs from `DeadLetter.origin_id`."""

    deliveries: int
    error_type: str = ""
    """Class of the exception, in the format that `delivery.terminalErrors` uses."""

    error_message: str = ""
    at: str = ""
    """Innermost location of the traceback: `orders.py:15 in handle`."""

    traceparent: str = ""
    """Trace context of the last attempt's span. The original fields contain the producer's trace context."""

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
        other_errors: str = "",
    ) -> Self:
        """Return the failure details for an exception. The texts in the details are truncated, and can be encoded as
        UTF-8. `other_errors` are the errors that the handler raised with this exception, in one exception group.

        May raise any error, because `__str__` of the exception can fail.
        """
        message = str(TracebackException.from_exception(error, limit=0))
        return cls(
            reason=reason,
            stream=stream,
            consumer_group=consumer_group,
            consumer=consumer,
            message_id=message_id,
            deliveries=deliveries,
            error_type=_truncate(_qualified_name(type(error)), MAX_NAME_LENGTH),
            error_message=_truncate(f"{message}; also {other_errors}" if other_errors else message, MAX_MESSAGE_LENGTH),
            at=_truncate(_error_location(error), MAX_NAME_LENGTH),
            traceparent=traceparent,
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parsed dead letter."""

    dead_letter_id: str
    """Id of the dead letter's entry in the dead-letter stream."""

    fields: list[bytes]
    """Alternating names and values of the original entry."""

    failure: FailureDetails
    origin_id: str
    """Id of the entry that originally contained the message. A replay does not change the origin id."""

    replays: int = 0
    """Number of replays before the failure."""

    @property
    def is_unreadable(self) -> bool:
        """True if `fields` contains the size of each value instead of the value."""
        return self.failure.reason == DeadLetterReason.UNREADABLE

    @property
    def added_at(self) -> datetime | None:
        """Time at which the message was first added. None if the producer set an id that is not a time."""
        return entry_time(self.origin_id)

    @property
    def dead_lettered_at(self) -> datetime | None:
        """Time at which the message became a dead letter."""
        return entry_time(self.dead_letter_id)


# -- writing and reading ---------------------------------------------------------------------------------------------


def to_fields(original: Sequence[bytes], failure: FailureDetails) -> list[bytes]:
    """Return the fields of a dead letter: the original fields, followed by the failure fields.

    If the original entry has replay marks, their values are stored in the failure fields instead.
    """
    origin, replays = parse_replay_marks(original) or (failure.message_id, 0)
    values = {
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
    failure_fields = [part.encode() for name, text in values.items() if text for part in (FIELD_PREFIX + name, text)]
    return [*_pack(strip_replay_marks(original)), *failure_fields]


def from_fields(dead_letter_id: str, entry_fields: Sequence[bytes]) -> DeadLetter | None:
    """Parse the fields of a dead letter. Returns None if the entry is not a dead letter of StreamConsumer."""
    # If a group reads a dead-letter stream as its stream, a dead letter in that stream can have replay marks.
    entry_fields = strip_replay_marks(entry_fields)
    names = entry_fields[::2]
    if _REASON not in names:
        return None
    begin = 2 * (len(names) - 1 - names[::-1].index(_REASON))
    values = {name.decode(errors="backslashreplace"): value for name, value in _to_dict(entry_fields[begin:]).items()}
    texts = {name.removeprefix(FIELD_PREFIX): value.decode(errors="backslashreplace") for name, value in values.items()}
    failure = FailureDetails(
        reason=texts["reason"],
        stream=texts.get("stream", ""),
        consumer_group=texts.get("group", ""),
        consumer=texts.get("consumer", ""),
        message_id=texts.get("message-id", ""),
        deliveries=_parse_count(values.get("streamconsumer.deliveries")),
        error_type=texts.get("error-type", ""),
        error_message=texts.get("error-message", ""),
        at=texts.get("at", ""),
        traceparent=texts.get("traceparent", ""),
    )
    return DeadLetter(
        dead_letter_id,
        list(_unpack(entry_fields[:begin])),
        failure,
        origin_id=texts.get("origin-id", failure.message_id),
        replays=_parse_count(values.get("streamconsumer.replays")),
    )


# -- replaying -------------------------------------------------------------------------------------------------------


def replay_fields(dead_letter: DeadLetter) -> list[bytes]:
    """Return the fields of a replayed entry: the original fields, including the trace context, and the replay marks."""
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
    """Return the original fields of an entry: without replay marks, and unpacked if they were packed."""
    has_marks = (
        len(entry_fields) > _MARKS_LENGTH and entry_fields[-2] == _REPLAYED_FOR and parse_replay_marks(entry_fields)
    )
    return _unpack(entry_fields[:-_MARKS_LENGTH]) if has_marks else entry_fields


def has_replay_marks(entry_fields: Sequence[bytes] | Sequence[str]) -> bool:
    """Return whether the entry may have replay marks. For speed, only the length and one field name are checked."""
    return len(entry_fields) > _MARKS_LENGTH and entry_fields[-2] in _REPLAYED_FOR_VARIANTS


def is_replay_for_other_group(entry_fields: Sequence[bytes], consumer_group: bytes) -> bool:
    """Return whether the entry is a replay for another consumer group of the stream.

    Every group receives every replayed entry, but only the group in which the message failed must handle it again.
    """
    return (
        len(entry_fields) > _MARKS_LENGTH
        and entry_fields[-2] == _REPLAYED_FOR
        and entry_fields[-1] != consumer_group
        and parse_replay_marks(entry_fields) is not None
    )


def parse_replay_marks(entry_fields: Sequence[bytes]) -> tuple[str, int] | None:
    """Return the origin id and the number of replays. Returns None if the entry does not end with replay marks."""
    if len(entry_fields) <= _MARKS_LENGTH:
        return None
    first, origin, second, replays, third = entry_fields[-_MARKS_LENGTH:-1]
    are_marks = (first, second, third) == (_ORIGIN_ID, _REPLAYS, _REPLAYED_FOR)
    if not are_marks or not _ID.fullmatch(origin) or not _NUMBER.fullmatch(replays):
        return None
    return origin.decode(), int(replays)


# -- packing ---------------------------------------------------------------------------------------------------------


def _pack(original: Sequence[bytes]) -> Sequence[bytes]:
    """Return the original fields. If there are more than MAX_FIELDS fields, returns one packed field.

    If a producer's own field looks packed, the fields are packed once more, so that `_unpack` does not unpack the
    producer's field.
    """
    if len(original) <= 2 * MAX_FIELDS and not _is_packed(original):
        return original
    return [_PACKED, b"".join([b"%d:%b," % (len(part), part) for part in original])]


def _unpack(entry_fields: Sequence[bytes]) -> Sequence[bytes]:
    """Return the original fields if `entry_fields` is packed; otherwise return `entry_fields` unchanged."""
    if not _is_packed(entry_fields):
        return entry_fields
    original: list[bytes] = []
    packed, position = entry_fields[1], 0
    while length := _LENGTH.match(packed, position):
        end = length.end() + int(length[1])
        if packed[end : end + 1] != b",":
            return entry_fields
        original.append(packed[length.end() : end])
        position = end + 1
    return original if position == len(packed) and len(original) % 2 == 0 else entry_fields


def _is_packed(entry_fields: Sequence[bytes]) -> bool:
    return len(entry_fields) == 2 and entry_fields[0] == _PACKED


# -- helpers ---------------------------------------------------------------------------------------------------------


def entry_time(entry_id: str) -> datetime | None:
    """Return the time in an entry id. Returns None if `datetime` cannot represent this time."""
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
    for frame, line in walk_tb(error.__traceback__):  # noqa: B007 - the last values are used
        pass
    return f"{PurePath(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}" if frame else ""


def _truncate(text: str, max_length: int) -> str:
    """Truncate a text to `max_length` characters, and escape characters that cannot be encoded as UTF-8."""
    text = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return text.encode(errors="backslashreplace").decode()
