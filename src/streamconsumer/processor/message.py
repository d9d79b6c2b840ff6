"""Entries and messages: an `Entry` is the raw form in the processor, a `Message` the form that a handler sees.

An entry keeps its values as bytes until its handler starts, so that an undecodable entry fails alone. Defaults are
class attributes: they cost nothing for an ordinary entry, which is nearly every one.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from streamconsumer.errors import UndecodableEntry
from streamconsumer.processor.dead_letters.record import MIN_LENGTH_WITH_MARKS, has_replay_marks, strip_replay_marks

Encoding = Literal["utf-8", "bytes"]


class ConsumerId(NamedTuple):
    """Identity of a consumer: its stream, its group and its own name. Built once per start, never per message."""

    stream: str
    group: str
    consumer: str

    @property
    def log_context(self) -> str:
        """Prefix of log messages about this consumer's group."""
        return f"stream {self.stream!r}, group {self.group!r}"


class Entry:
    """An entry as Redis returned it, and its state in the processor."""

    deliveries: int = 1
    """Number of started attempts as counted by Redis. Includes the current attempt once `attempt_counted` is True.

    An entry that was read counts one attempt, even if its handler never started: Redis does not know the difference."""

    attempt_counted = True
    """True if Redis has counted the current attempt. A redelivered entry must be counted before its handler starts."""

    is_first_delivery = False
    """True if the entry was just read for the first time and is not large. Only replay marks need a check then."""

    is_ascii = False
    """True if the entry is known to be ASCII. `texts` then holds its fields."""

    texts: Sequence[str] = ()

    is_standalone = False
    """True if the entry is not in the in-flight table."""

    is_replay = False
    """True if the entry was replayed from a dead letter. Its marks are hidden from the handler."""

    may_be_large = False
    """True if the size of the entry must be checked."""

    is_trial = False
    """True if the attempt started while the circuit breaker was open."""

    decision: Any = None
    """FailureDecision or Effects that could not be applied yet. None if nothing is outstanding."""

    is_suspect = False
    """True if more than one consumer died while the entry may have been running."""

    owner_died = False
    """True if a consumer died while the entry may have been running, and no attempt has ended since."""

    is_uncounted = False
    """True if the attempt runs without being counted by Redis: a trial while the circuit breaker is open."""

    disposition: Literal["", "claimed_by_peer", "timeout", "drain_timeout", "retry_scheduled"] = ""
    """Why the attempt ended other than by its handler. Empty while the handler decides."""

    lane: bytes | None = None
    """Value of the ordering key. None if the entry has none."""

    started_seconds = 0.0
    """Time at which the handler was called, on the event loop's clock. Set only if a timeout is configured."""

    received_ns = 0
    """Time at which this process received the entry, on its own clock. Set only for tracing. 0 after an attempt."""

    had_uncounted_attempt = False
    """True if an earlier attempt was not counted: the current attempt then repeats its number."""

    last_attempt_span: Any = None
    """Span of the last attempt in this process. None if there is none."""

    claimed_from = ""
    """Name of the consumer from which the entry was claimed. Empty if it was not claimed."""

    claim_span: Any = None
    """Span of the claim. None if there is none."""

    def __init__(self, message_id: str, fields: Sequence[bytes]) -> None:
        self.message_id = message_id
        self.fields = fields
        """Field names and values in turn, as in the reply."""

    @classmethod
    def standalone(cls, message_id: str) -> "Entry":
        """Create an entry for a direct call of `_process_single_message`, without the in-flight table."""
        entry = cls(message_id, ())
        entry.is_standalone = True
        return entry

    @classmethod
    def redelivered(cls, message_id: bytes, fields: Sequence[bytes], deliveries: int) -> "Entry":
        """Create an entry that a consumer received before. Its next attempt must be counted."""
        entry = cls(message_id.decode(), fields)
        entry.deliveries, entry.attempt_counted, entry.may_be_large = deliveries, False, True
        return entry

    @classmethod
    def from_reply(cls, raw_entries: Sequence[Any]) -> "list[Entry]":
        """Parse the entries of a raw reply, without the trimmed ones."""
        return [cls(raw[0].decode(), raw[1]) for raw in raw_entries if raw is not None and raw[1] is not None]

    def has_replay_marks(self) -> bool:
        """Return whether the entry may carry replay marks."""
        return has_replay_marks(self.fields)

    def field_value(self, name: bytes) -> bytes | None:
        """Return the value of a field. None if the entry lacks the field."""
        fields = strip_replay_marks(self.fields)
        names = fields[::2]
        return fields[2 * names.index(name) + 1] if name in names else None

    def size_bytes(self) -> int:
        """Return the size of all names and values, without replay marks."""
        return sum(map(len, strip_replay_marks(self.fields)))

    def data(self, encoding: Encoding) -> dict[Any, Any]:
        """Return field values by name. A repeated name keeps its last value. Raises UndecodableEntry."""
        fields = strip_replay_marks(self.fields) if self.is_replay else self.fields
        if encoding == "bytes":
            return dict(zip(fields[::2], fields[1::2], strict=True))
        try:
            in_turn = map(bytes.decode, fields)
            return dict(zip(in_turn, in_turn, strict=True))
        except UnicodeDecodeError as error:
            raise self._undecodable_error(error.object) from None

    def _undecodable_error(self, raw: bytes) -> UndecodableEntry:
        return UndecodableEntry(
            f"entry {self.message_id}: {bytes(raw[:40])!r} is not UTF-8; set `encoding: bytes` to receive bytes"
        )


class BytesEntry(Entry):
    """Entry of a first delivery whose values stay bytes."""

    is_first_delivery = True


class TextEntry(Entry):
    """Entry of a first delivery whose reply was parsed as text.

    Parsing the reply as text takes a quarter of the time of decoding each value afterwards. Bytes that are not UTF-8
    arrive as lone surrogates, from which the original bytes can be restored."""

    is_first_delivery = True

    def __init__(self, message_id: str, texts: Sequence[str]) -> None:
        self.message_id = message_id
        self.texts = texts

    @property
    def fields(self) -> Sequence[bytes]:  # type: ignore[override] # built only for the few entries that need bytes
        return [text.encode(errors="surrogateescape") for text in self.texts]

    def has_replay_marks(self) -> bool:
        return len(self.texts) >= MIN_LENGTH_WITH_MARKS and has_replay_marks(self.texts)

    def data(self, encoding: Encoding) -> dict[Any, Any]:
        if self.is_replay:
            return super().data(encoding)
        if not self.is_ascii:
            for text in self.texts:
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise self._undecodable_error(text.encode(errors="surrogateescape")) from None
        in_turn = iter(self.texts)
        return dict(zip(in_turn, in_turn))  # noqa: B905 - in Redis each name has a value; checking it costs 0.1 µs


class AsciiEntry(TextEntry):
    """Entry of a reply that is ASCII only, which needs no check for surrogates."""

    is_ascii = True


@dataclass(slots=True)  # not frozen, which would triple the cost of creating one
class Message:
    """A message as `current_message()` returns it."""

    message_id: str
    stream: str
    consumer_group: str
    consumer: str
    deliveries: int
    """1 for the first attempt. Higher after a failure, or after another consumer died with the message."""

    data: Mapping[Any, Any] = field(repr=False)


MessageContext = tuple[Entry, ConsumerId, Mapping[Any, Any]]
"""The message in the current handler: its entry, its consumer and its data.

A bare tuple, because one is created per message. `current_message()` builds a `Message` only on request."""


def to_message(context: MessageContext) -> Message:
    """Build the `Message` of a context."""
    entry, consumer_id, data = context
    return Message(entry.message_id, *consumer_id, entry.deliveries, data)


_current: ContextVar[MessageContext | list[Message]] = ContextVar("streamconsumer_message")


def current_message() -> Message:
    """Return the message that is being handled. Raises LookupError outside a handler, and in a batch handler."""
    current = _current.get()
    if isinstance(current, list):
        raise LookupError(f"a batch of {len(current)} is being handled, not one message; call current_messages()")  # noqa: TRY004 - part of the interface
    return to_message(current)


def current_messages() -> list[Message]:
    """Return the messages that are being handled, in the order of the batch. Raises LookupError outside a handler.

    In a handler of single messages, the list has one element."""
    current = _current.get()
    return list(current) if isinstance(current, list) else [to_message(current)]


set_current, reset_current = _current.set, _current.reset
"""Setter and resetter of the current message: `token = set_current(context)`, later `reset_current(token)`.

For a batch, the context is its list of messages."""


def is_suspect(deliveries: int, max_deliveries: int) -> bool:
    """Return whether an entry of a dead consumer must run alone: its handler may have crashed the process.

    An entry with one delivery may only have been read. From two on, the entry was running when its process died,
    possibly together with the entry that crashed it. If `max_deliveries` is too small to distinguish the two cases,
    every entry is a suspect."""
    return deliveries >= min(2, max_deliveries - 1)
