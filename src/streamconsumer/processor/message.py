"""An entry on its way through the processor, and what a handler may ask about the one it handles."""

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


class Entry:
    """One entry as Redis gave it: bytes, decoded only when its turn comes, so that a bad one fails alone.

    What stands in the class is what is so for nearly every entry: it costs nothing until it is different.
    """

    deliveries: int = 1
    """How often it was begun, this time included, as Redis counts; before a redelivered one begins, without this time.
    One that was read and never begun counts as begun once, for nobody can tell."""

    attempt_counted = True
    """Whether Redis knows that it begins. What comes again must be counted first."""

    is_first_delivery = False
    """Whether it was just read for the first time, and is not large: then only marks are to be looked for."""

    is_ascii = False
    """Whether it is text for certain, and known as `texts`."""

    texts: Sequence[str] = ()

    is_standalone = False

    is_replay = False
    """Whether it was a dead letter, and carries marks that the handler does not get to see."""

    may_be_large = False
    """Whether its size must be looked at."""

    is_trial = False
    """Whether it began while the circuit breaker was open."""

    decision: Any = None
    """What was decided of it and could not be done yet."""

    is_suspect = False
    """Whether its consumers died more than once while it may have run."""

    owner_died = False
    """Whether its consumer died while it may have run, and no attempt at it has ended since."""

    is_uncounted = False
    """Whether it runs without Redis having counted it: a trial while the circuit breaker is open."""

    disposition: Literal["", "lost", "timeout", "drained", "waits"] = ""
    """What became of it apart from what its handler says: another consumer has it; it took too long; the drain was
    over; it waits to be tried again."""

    lane: bytes | None = None
    """The value of its ordering key."""

    started_seconds = 0.0
    """When its handler was called, on the loop's clock; where somebody needs to know."""

    received_ns = 0
    """When this process had it, on its own clock; where somebody needs to know. 0 once it was tried."""

    had_uncounted_attempt = False
    """Whether it was begun before and that did not count: then there was an attempt of the same number."""

    last_attempt_span: Any = None
    """The span of the last attempt in this process."""

    claimed_from = ""
    """The consumer that it was taken over from."""

    claim_span: Any = None
    """The span of taking it over."""

    def __init__(self, message_id: str, fields: Sequence[bytes]) -> None:
        self.message_id = message_id
        self.fields = fields
        """Names and values in turn, as they stand in the reply."""

    @classmethod
    def standalone(cls, message_id: str) -> "Entry":
        """One that did not come through the in-flight table: somebody calls `_process_single_message` by himself."""
        entry = cls(message_id, ())
        entry.is_standalone = True
        return entry

    @classmethod
    def redelivered(cls, message_id: bytes, fields: Sequence[bytes], deliveries: int) -> "Entry":
        """An entry that a consumer received before: its next attempt must be counted."""
        entry = cls(message_id.decode(), fields)
        entry.deliveries, entry.attempt_counted, entry.may_be_large = deliveries, False, True
        return entry

    @classmethod
    def from_reply(cls, raw_entries: Sequence[Any]) -> "list[Entry]":
        """The entries of a raw reply; without those that were trimmed."""
        return [cls(each[0].decode(), each[1]) for each in raw_entries if each is not None and each[1] is not None]

    def has_replay_marks(self) -> bool:
        """Whether it may carry the marks of a replay."""
        return has_replay_marks(self.fields)

    def field_value(self, name: bytes) -> bytes | None:
        """The value of a field."""
        fields = strip_replay_marks(self.fields)
        names = fields[::2]
        return fields[2 * names.index(name) + 1] if name in names else None

    def size_bytes(self) -> int:
        """Names and values together, without the marks of a replay."""
        return sum(map(len, strip_replay_marks(self.fields)))

    def data(self, encoding: Encoding) -> dict[Any, Any]:
        """Field names to values. A name that occurs twice keeps its last value. Raises UndecodableEntry."""
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
    """One that was just read, and whose texts nobody wants."""

    is_first_delivery = True


class TextEntry(Entry):
    """One whose reply was parsed as text, which takes a fourth of decoding it piece by piece afterwards. What is not
    UTF-8 came through as lone surrogates, from which the bytes can be had back."""

    is_first_delivery = True

    def __init__(self, message_id: str, texts: Sequence[str]) -> None:
        self.message_id = message_id
        self.texts = texts

    @property
    def fields(self) -> Sequence[bytes]:  # type: ignore[override] # put together only for the few that need it
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
        return dict(zip(in_turn, in_turn))  # noqa: B905 - Redis' names all have values; to check that costs 0.1 µs


class AsciiEntry(TextEntry):
    """One of a reply that was ASCII altogether: then there is nothing to look for."""

    is_ascii = True


@dataclass(slots=True)  # not frozen: that would triple what making one costs
class Message:
    """What `current_message()` tells a handler."""

    message_id: str
    stream: str
    consumer_group: str
    consumer: str
    deliveries: int
    """1 the first time; more after a failure, or after another consumer died with it."""

    data: Mapping[Any, Any] = field(repr=False)


MessageContext = tuple[Entry, ConsumerId, Mapping[Any, Any]]
"""A message as it is handled: its entry, the stream, group and consumer, and its data. A bare tuple, for one is
made for every message; what `current_message()` answers is put together only when somebody asks."""


def to_message(context: MessageContext) -> Message:
    """What is told of a message."""
    entry, consumer_id, data = context
    return Message(entry.message_id, *consumer_id, entry.deliveries, data)


_current: ContextVar[MessageContext | list[Message]] = ContextVar("streamconsumer_message")


def current_message() -> Message:
    """The message that is being handled. Raises LookupError outside a handler, and in one that takes batches."""
    found = _current.get()
    if isinstance(found, list):
        raise LookupError(f"a batch of {len(found)} is being handled, not one message; call current_messages()")  # noqa: TRY004 - what it promised to raise
    return to_message(found)


def current_messages() -> list[Message]:
    """The messages of the batch that is being handled, in the order of its list. Raises LookupError outside a
    handler; in one that takes single messages, it is a list of one."""
    found = _current.get()
    return list(found) if isinstance(found, list) else [to_message(found)]


set_current, reset_current = _current.set, _current.reset
"""`token = enter(message)` makes `current_message()` answer with this message, until `leave(token)`; the same with the
list of a batch."""


def is_suspect(deliveries: int, max_deliveries: int) -> bool:
    """Whether an entry of a consumer that died must begin alone. One that was begun once may just have been read; from
    the second time on it ran when its process died, perhaps beside the one that killed it. Where there are too few
    attempts to tell the two apart, all begin alone."""
    return deliveries >= min(2, max_deliveries - 1)
