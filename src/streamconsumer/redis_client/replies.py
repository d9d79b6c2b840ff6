"""Parsing of raw Redis replies (RESP 2). The functions have no side effects.

A reply is untrusted. Each function checks type and range, and raises UnexpectedReply for an invalid reply. The error
names the subject (a command or a field in its reply), the value found and the value expected.
"""

import re
import reprlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from redis.exceptions import InvalidResponse

Execute = Callable[..., Awaitable[Any]]
ExecuteAll = Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]]
"""Coroutine function that executes one command and returns the raw reply. Each word of the command is one argument."""

MAX_COUNT = 2**63 - 1
"""Maximum value of a number in a reply."""

MAX_ID_PART = 2**64 - 1
"""Maximum value of each of the two numbers in an entry id."""

T = TypeVar("T")

_NUMBER = re.compile(rb"-?[0-9]{1,19}")
_RUN_ID = re.compile(r"^run_id:([0-9a-zA-Z]{1,64})\r?$", re.MULTILINE)
_CLIENT = re.compile(r"^id=([0-9]{1,19}) .*?\bname=(\S*)", re.MULTILINE)
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_quotes = reprlib.Repr()
_quotes.maxlevel, _quotes.maxlist, _quotes.maxstring, _quotes.maxother = 2, 4, 60, 60


class UnexpectedReply(InvalidResponse):
    """A reply does not have the type, the length or the range that Redis documents for the command."""

    def __init__(self, subject: str, found: Any, expected: str) -> None:
        super().__init__(f"reply to {subject}: found {_quotes.repr(found)}, expected {expected}")
        self.unquoted = f"reply to {subject}: found {_type_name(found)}, expected {expected}"
        """The message without any text of the server."""


def count(reply: Any, subject: str) -> int:
    """Return a number from 0 to 2⁶³ - 1."""
    number = _number(reply)
    if number is None or not 0 <= number <= MAX_COUNT:
        raise UnexpectedReply(subject, reply, "a number from 0 to 2^63 - 1")
    return number


def one_of(reply: Any, subject: str, expected: Sequence[T]) -> T:
    """Return the value in `expected` that is equal to the reply and has the same type."""
    for value in expected:
        if type(reply) is type(value) and reply == value:
            return value
    raise UnexpectedReply(subject, reply, f"one of {', '.join(map(repr, expected))}")


def optional_count(reply: Any, subject: str) -> int | None:
    """Return a number from 0 to 2⁶³ - 1. Returns None for nil and for -1, because both mean that the number is
    unknown."""
    return None if reply is None or reply in (-1, b"-1") else count(reply, subject)


def numbers(reply: Any, subject: str) -> dict[str, int]:
    """Return the fields of a hash whose values are numbers from 0 to 2⁶³ - 1.

    Values that are not such numbers are omitted, because any program may write to the hash.
    """
    parsed = {name(field_name, subject): _number(value) for field_name, value in to_dict(reply, subject).items()}
    return {each: number for each, number in parsed.items() if number is not None and 0 <= number <= MAX_COUNT}


def text(reply: Any, subject: str) -> str:
    """Return a string as text. Bytes that are not UTF-8 become escapes such as `\\xff`."""
    if not isinstance(reply, bytes):
        raise UnexpectedReply(subject, reply, "a string")
    return reply.decode(errors="backslashreplace")


def name(reply: Any, subject: str) -> str:
    """Return the name of a consumer as text that can be sent to Redis again. Bytes that are not UTF-8 become lone
    surrogates."""
    if isinstance(reply, str):
        return reply
    if not isinstance(reply, bytes):
        raise UnexpectedReply(subject, reply, "a string")
    return reply.decode(errors="surrogateescape")


def run_id(reply: Any) -> str:
    """Return the server's run id in the reply to INFO."""
    match = _RUN_ID.search(name(reply, "INFO"))
    if match is None:
        raise UnexpectedReply("INFO", reply, "a line run_id")
    return match[1]


def client_names(reply: Any) -> dict[int, str]:
    """Return the names of the connections in the reply to CLIENT LIST. The keys of the dict are the ids of the
    connections."""
    return {int(client_id): found for client_id, found in _CLIENT.findall(name(reply, "CLIENT LIST"))}


def entry_id(reply: Any, subject: str) -> str:
    """Return the id of an entry: two numbers from 0 to 2⁶⁴ - 1."""
    value = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
    if "-" not in value or not is_id(value):
        raise UnexpectedReply(subject, reply, "an entry id, such as 1700000000000-0")
    return value


def array(reply: Any, subject: str, length: int | None = None) -> list[Any]:
    """Return an array. If `length` is not None, the array must have `length` elements."""
    if not isinstance(reply, list) or length not in (None, len(reply)):
        raise UnexpectedReply(subject, reply, "an array" if length is None else f"an array of {length} elements")
    return reply


def to_dict(flat: Any, subject: str = "a command with named fields") -> dict[bytes, Any]:
    """Convert a flat list of alternating keys and values to a dict."""
    items = array(flat, subject)
    keys = items[::2]
    if len(items) % 2 or not all(isinstance(key, bytes) for key in keys) or len({*keys}) < len(keys):
        raise UnexpectedReply(subject, flat, "pairs of a name and a value, each with a different name")
    return dict(zip(keys, items[1::2], strict=True))


def field(fields: dict[bytes, Any], name: str, subject: str) -> Any:
    """Return the value of a field that Redis always returns."""
    try:
        return fields[name.encode()]
    except KeyError:
        raise UnexpectedReply(subject, [*fields], f"a field {name}") from None


def server_time_microseconds(reply: Any) -> int:
    """Return the reply to TIME as Unix time in microseconds."""
    seconds, microseconds = array(reply, "TIME", 2)
    return count(seconds, "TIME") * 1_000_000 + count(microseconds, "TIME")


def stream_entries(reply: Any) -> list[Any]:
    """Return the raw entries in the XREADGROUP reply for one stream."""
    if not reply:
        return []
    (stream,) = array(reply, "XREADGROUP", 1)
    return array(array(stream, "XREADGROUP", 2)[1], "XREADGROUP")


def entries(reply: Any, subject: str) -> list[tuple[str, list[bytes]]]:
    """Parse entries in the format of XRANGE. Returns the id and the fields of each entry."""
    parsed = []
    for entry in array(reply, subject):
        message_id, fields = array(entry, subject, 2)
        if len(array(fields, subject)) % 2 or not all(isinstance(part, bytes) for part in fields):
            raise UnexpectedReply(subject, fields, "pairs of a field name and a value")
        parsed.append((entry_id(message_id, subject), fields))
    return parsed


def is_id(value: str) -> bool:
    """Return True if the text is an entry id, with or without a sequence number."""
    match = _ID.fullmatch(value)
    return match is not None and all(int(part or 0) <= MAX_ID_PART for part in match.groups())


def parse_id(message_id: str) -> tuple[int, int]:
    """Return an entry id as (milliseconds, sequence), which sorts in stream order."""
    if not is_id(message_id):
        raise UnexpectedReply("a Redis command", message_id, "an entry id, such as 1700000000000-0")
    milliseconds, _, sequence = message_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def to_milliseconds(duration: timedelta) -> int:
    """Return a duration in milliseconds, rounded."""
    return round(duration / timedelta(milliseconds=1))


def _type_name(reply: Any) -> str:
    match reply:
        case None:
            return "nil"
        case bytes():
            return f"a string of {len(reply)} bytes"
        case list():
            return f"an array of {len(reply)} elements"
        case int():
            return "an integer"
    return "an error"


def _number(reply: Any) -> int | None:
    """Return the number in an integer reply, or in a string with an integer. Returns None for any other reply."""
    if isinstance(reply, bytes) and _NUMBER.fullmatch(reply):
        return int(reply)
    return reply if type(reply) is int else None
