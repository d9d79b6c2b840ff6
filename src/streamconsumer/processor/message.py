"""An entry on its way through the processor, and what a handler may ask about the one it handles."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from streamconsumer.errors import UndecodableEntry

Encoding = Literal["utf-8", "bytes"]


@dataclass(slots=True)
class Entry:
    """One entry as Redis gave it: bytes, decoded only when its turn comes, so that a bad one fails alone."""

    message_id: str
    fields: Sequence[bytes]
    """Names and values in turn, as they stand in the reply."""

    deliveries: int = 1
    """How often Redis has delivered it, this time included."""

    def data(self, encoding: Encoding) -> dict[Any, Any]:
        """Field names to values. A name that occurs twice keeps its last value. Raises UndecodableEntry."""
        names, values = self.fields[::2], self.fields[1::2]
        if encoding == "bytes":
            return dict(zip(names, values, strict=True))
        try:
            return {name.decode(): value.decode() for name, value in zip(names, values, strict=True)}
        except UnicodeDecodeError as error:
            raise UndecodableEntry(
                f"entry {self.message_id}: {bytes(error.object[:40])!r} is not UTF-8; "
                "set `encoding: bytes` to receive bytes"
            ) from None


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


_current: ContextVar[Message] = ContextVar("streamconsumer_message")


def current_message() -> Message:
    """The message that is being handled. Raises LookupError outside a handler."""
    return _current.get()


class Handling:
    """`with Handling(message):` makes `current_message()` answer with this message."""

    __slots__ = ("_message", "_token")

    def __init__(self, message: Message) -> None:
        self._message = message

    def __enter__(self) -> None:
        self._token = _current.set(self._message)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
