"""Entries and messages: an `Entry` is the raw form in the processor, and a `Message` is the form that a handler gets.

An entry's values are decoded when its handler starts, so that an undecodable entry fails without affecting the other
entries of its read. Default values are class attributes, so that creating an entry does not have to set them. The fast
path uses instance attributes without a default, because Python 3.11 accesses such attributes faster.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple

from streamconsumer.errors import UndecodableEntry
from streamconsumer.processor.dead_letters.record import MIN_LENGTH_WITH_MARKS, has_replay_marks, strip_replay_marks
from streamconsumer.processor.entry_state import LOST, QUEUED, RUNNING, TRANSITIONS, EntryState, Transition
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import UnexpectedReply

Encoding = Literal["utf-8", "bytes"]


class ConsumerId(NamedTuple):
    """Identity of a consumer: stream, consumer group and consumer name. The processor creates one `ConsumerId` per
    start."""

    stream: str
    group: str
    consumer: str

    @property
    def log_context(self) -> str:
        """Stream and group of this consumer, as text for log messages."""
        return f"stream {self.stream!r}, group {self.group!r}"


class Origin(Enum):
    """How an entry came to its next attempt. The origin decides the order in which entries start."""

    NEW = "new"
    """XREADGROUP has delivered the entry for the first time, and has counted one attempt."""

    CLAIMED = "claimed"
    """Another process owned the entry, and may have started its handler. No attempt has ended since then."""

    DUE = "due"
    """The delay of a retry has ended, in this process or in Redis."""


NEW, CLAIMED, DUE = Origin  # an attribute of an Enum takes 50 ns in Python 3.11


class Entry:
    """Fields of an entry as Redis returned them, and state of the entry in the processor."""

    deliveries: int = 1
    """Number of attempts that have started. For a new entry, the attempt that XREADGROUP has counted is included."""

    state: EntryState
    origin: Origin = NEW

    texts: Sequence[str]
    """Alternating field names and values as text. Only a `TextEntry` has this attribute."""

    is_first_delivery = False
    """True if the entry was just read for the first time and is not large.

    If True, the entry needs no check except the check for replay marks."""

    is_standalone = False
    """True if the entry is not in the in-flight table."""

    may_be_large = False
    """True if the size of the entry must be checked against `delivery.maxEntryBytes`."""

    in_large_reply = False
    """True if the entry was read in a large reply, so that the memory it occupies must be measured."""

    decision: Any = None
    """FailureDecision or Effects that must still be applied in Redis. None if there is nothing to apply."""

    is_suspect = False
    """True if the function `is_suspect` returned True: handling the entry may have crashed a consumer's process."""

    lane: bytes | None = None
    """Value of the ordering key. Entries with the same value are handled in order. None if no ordering key is set, or
    if the entry does not have the key's field."""

    is_parked = False
    """True if this process has dropped the fields of the entry, and must read them again before the handler starts."""

    received_ns = 0
    """Time at which this process received the entry, by this machine's clock. The time is 0 if the entry is not traced,
    or after an attempt has ended."""

    had_uncounted_attempt = False
    """True if an earlier attempt was not counted. If True, the current attempt can have the same number as the
    uncounted attempt."""

    last_attempt_span: Any = None
    """Span of the last attempt in this process. None if no attempt in this process had a span."""

    claimed_from = ""
    """Name of the consumer from which the entry was claimed. Empty if the entry was not claimed."""

    claim_span: Any = None
    """Span of the claim. None if the entry was not claimed or the claim has no span."""

    def __init__(self, message_id: str, fields: Sequence[bytes]) -> None:
        self.message_id, self.state = message_id, QUEUED
        self.fields = fields
        """Alternating field names and values, as in Redis' reply."""

    @classmethod
    def standalone(cls, message_id: str) -> "Entry":
        """Create an entry that is not in the in-flight table, for a direct call of `_process_single_message`."""
        entry = cls(message_id, ())
        entry.is_standalone, entry.state = True, RUNNING
        return entry

    @classmethod
    def redelivered(cls, message_id: str, fields: Sequence[bytes], deliveries: int) -> "Entry":
        """Create an entry that some consumer has received before. The next attempt of this entry must be counted in
        Redis."""
        entry = cls(message_id, fields)
        entry.deliveries, entry.origin = deliveries, DUE
        entry.may_be_large = entry.in_large_reply = True
        return entry

    @classmethod
    def from_reply(cls, raw_entries: Sequence[Any]) -> "list[Entry]":
        """Parse the entries of a raw reply. Omits trimmed entries."""
        pairs = [replies.array(raw, "XREADGROUP", 2) for raw in raw_entries if raw is not None]
        untrimmed = [pair for pair in pairs if pair[1] is not None]
        return [cls(message_id, fields) for message_id, fields in replies.entries(untrimmed, "XREADGROUP")]

    @property
    def previous_attempts(self) -> int:
        """Number of attempts before the next attempt. Valid only while the entry is not running."""
        return self.deliveries - (self.origin is NEW)

    def apply(self, transition: Transition) -> None:
        """Change the state. A lost entry stays lost, and never starts."""
        sources, target = TRANSITIONS[transition]
        if self.state is not LOST or transition == "start":
            assert self.state in sources, f"entry {self.message_id}: {transition} while {self.state.value}"
            self.state = target

    def park(self) -> None:
        """Drop the fields, so that the entry occupies little memory while it waits for another entry."""
        self.is_parked, self.fields = True, ()

    def load(self, fields: Sequence[bytes]) -> None:
        """Set the fields of a parked entry, which were read again."""
        self.is_parked, self.fields = False, fields
        self.may_be_large = self.in_large_reply = True

    def mark_attempted(self) -> None:
        """Record that an attempt has started in this process, so that the next attempt must be counted in Redis."""
        self.origin, self.is_first_delivery = DUE, False

    @property
    def is_replay(self) -> bool:
        """True if the entry was replayed from a dead letter. The handler does not get the replay marks."""
        return has_replay_marks(self.fields)

    def field_value(self, name: bytes) -> bytes | None:
        """Return the value of a field. Returns None if the entry does not have the field."""
        fields = strip_replay_marks(self.fields)
        names = fields[::2]
        return fields[2 * names.index(name) + 1] if name in names else None

    def size_bytes(self) -> int:
        """Return the total size of all field names and values. Replay marks are not included."""
        return sum(map(len, strip_replay_marks(self.fields)))

    def data(self, encoding: Encoding) -> dict[Any, Any]:
        """Return a dict of the fields. If a name is repeated, the last value is used.

        Raises UndecodableEntry if `encoding` is utf-8 and a name or value is not valid UTF-8."""
        fields = strip_replay_marks(self.fields)
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


class UnreadableEntry(Entry):
    """Entry that is too large to be read. `fields` contains the field names and, instead of each value, its size.

    If the entry has replay marks, the fields end with these marks."""

    origin = DUE

    def __init__(self, message_id: str, fields: Sequence[bytes], deliveries: int, problem: str) -> None:
        super().__init__(message_id, fields)
        self.deliveries = deliveries
        self.problem = problem
        """Size of the entry, and the reason why the entry cannot be read."""

    def field_value(self, name: bytes) -> None:
        """Return None, because the value was not read."""


class BytesEntry(Entry):
    """Entry that was read for the first time, with values as bytes."""

    is_first_delivery = True


class TextEntry(Entry):
    """Entry that was read for the first time, from a reply that was parsed as text.

    Parsing the reply as text is four times as fast as decoding each value afterwards. Bytes that are not valid UTF-8
    become lone surrogates, from which the original bytes can be restored."""

    is_first_delivery = True

    def __init__(self, message_id: str, texts: Sequence[str]) -> None:
        self.message_id, self.texts, self.state = message_id, texts, QUEUED

    @property
    def fields(self) -> Sequence[bytes]:  # only a few entries need bytes
        return [text.encode(errors="surrogateescape") for text in self.texts]

    @fields.setter
    def fields(self, fields: Sequence[bytes]) -> None:
        self.texts = [field.decode(errors="surrogateescape") for field in fields]

    @property
    def is_replay(self) -> bool:
        return has_replay_marks(self.texts)

    def data(self, encoding: Encoding) -> dict[Any, Any]:
        if len(self.texts) >= MIN_LENGTH_WITH_MARKS and has_replay_marks(self.texts):
            return super().data(encoding)
        if not isinstance(self, AsciiEntry):
            for text in self.texts:
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise self._undecodable_error(text.encode(errors="surrogateescape")) from None
        in_turn = iter(self.texts)
        return dict(zip(in_turn, in_turn))  # noqa: B905 - in Redis each name has a value; checking it costs 0.1 µs


class AsciiEntry(TextEntry):
    """Entry from a reply that contains only ASCII, so that no check for surrogates is necessary."""


def new_entries(raw_entries: Sequence[Any], encoding: Encoding, *, is_ascii: bool) -> list[Entry]:
    """Parse entries that were read for the first time. `is_ascii` is True if the reply contained only ASCII.

    Only the first and the last entry are checked completely, because a check of each entry would take 0.2 µs per
    message.
    """
    kind = AsciiEntry if is_ascii else TextEntry
    entries: list[Entry]
    try:
        if encoding == "bytes":
            entries = [BytesEntry(message_id.decode(), fields) for message_id, fields in raw_entries]
        else:
            entries = [kind(message_id, texts) for message_id, texts in raw_entries]
        is_valid = all(replies.is_id(entry.message_id) for entry in (entries[0], entries[-1])) and all(
            isinstance(raw[1], list) for raw in (raw_entries[0], raw_entries[-1])
        )
    except (AttributeError, IndexError, TypeError, ValueError):
        is_valid = False
    if not is_valid:  # the entries are not quoted, because they contain data of users
        raise UnexpectedReply("XREADGROUP", [type(each).__name__ for each in raw_entries], "pairs of an id and fields")
    return entries


@dataclass(slots=True)  # not frozen, because creating a frozen object takes three times as long
class Message:
    """A message in a handler, as returned by `current_message()`."""

    message_id: str
    stream: str
    consumer_group: str
    consumer: str
    deliveries: int
    """Number of this attempt. Greater than 1 if an earlier attempt failed, or if a consumer died while the message was
    pending with it."""

    data: Mapping[Any, Any] = field(repr=False)


MessageContext = tuple[Entry, ConsumerId, Mapping[Any, Any]]
"""The current handler's message as a tuple of entry, consumer and data.

The context is a tuple to save time, because the processor creates a context for each message. `current_message()`
builds a `Message` from the context only when a handler calls the function."""


def to_message(context: MessageContext) -> Message:
    """Build the `Message` from a message context."""
    entry, consumer_id, data = context
    return Message(entry.message_id, *consumer_id, entry.deliveries, data)


_current: ContextVar[MessageContext | list[Message]] = ContextVar("streamconsumer_message")


def current_message() -> Message:
    """Return the message that is being handled. Raises LookupError outside a handler and in a batch handler."""
    current = _current.get()
    if isinstance(current, list):
        raise LookupError(f"the handler received a batch of {len(current)} messages; call current_messages()")  # noqa: TRY004 - part of the interface
    return to_message(current)


def current_messages() -> list[Message]:
    """Return the messages that are being handled, in batch order. Raises LookupError outside a handler.

    In a handler of single messages, the list has one element."""
    current = _current.get()
    return list(current) if isinstance(current, list) else [to_message(current)]


set_current, reset_current = _current.set, _current.reset
"""Functions that set and reset the current message: `token = set_current(context)`, later `reset_current(token)`.

For a batch, the context is the list of messages."""


def is_suspect(deliveries: int, max_deliveries: int) -> bool:
    """Return whether an entry of a dead consumer must be handled alone.

    An entry that must be handled alone is a suspect: handling the entry may have crashed the process of the dead
    consumer. If the delivery count is 1, the entry's handler may never have started. If the count is at least 2, the
    handler has started. If `max_deliveries` is 1 or 2, a delivery count of 1 makes the entry a suspect."""
    return deliveries >= (2 if max_deliveries > 2 else 1)
