"""The consumer of a user's own manager: it polls, acknowledges entries one by one, and can neither renew nor claim."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import Encoding, Entry

_NEEDS_STREAM_MANAGER = "{} need a StreamManager; a user's own manager has only the three coroutines"


class PollingConsumer:
    """A user's own manager as an intake."""

    def __init__(self, manager: StreamManagerProtocol, stream: str, group: str, consumer: str) -> None:
        self._manager, self._stream, self._group, self._consumer_name = manager, stream, group, consumer
        self.is_blocking = False
        self.encoding: Encoding = "utf-8"
        self.ack_nowait: Callable[[str], None] | None = None
        self.claimer = None

    async def open(self) -> None:
        await self._manager.create_group(self._stream, self._group)

    async def read(self, count: int) -> list[Entry]:
        events = await self._manager.read_events(self._stream, self._group, self._consumer_name, count)
        return [DecodedEntry(message_id, data) for message_id, data in events or []]

    async def interrupt_read(self) -> None:
        """A poll ends by itself."""

    async def ack(self, message_id: str) -> None:
        await self._manager.ack_event(self._stream, self._group, message_id)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def start_attempt(self, message_id: str, deliveries: int) -> int:  # noqa: ARG002 - not among the three coroutines
        return 1

    async def set_delivery_counts(self, entries: Sequence[tuple[str, int]]) -> None:
        """Nobody counts: that is not among the three coroutines either."""

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """They stay pending: handing back is not among the three coroutines."""

    async def dead_letter_many(self, dead_letters: Sequence[tuple[str, Sequence[bytes]]]) -> list[bool | Exception]:  # noqa: ARG002 - not among the three coroutines
        raise InvalidSettings(_NEEDS_STREAM_MANAGER.format("dead letters"))

    async def commit_effects(self, message_id: str, effects: Effects) -> bool:  # noqa: ARG002 - not among the three coroutines
        raise InvalidSettings(_NEEDS_STREAM_MANAGER.format("effects"))

    async def close(self) -> None:
        """The manager is the user's to close."""


class DecodedEntry(Entry):
    """An entry that a user's own manager has decoded in its own way."""

    def __init__(self, message_id: str, data: Mapping[Any, Any]) -> None:
        super().__init__(message_id, ())
        self._data = dict(data)

    def data(self, encoding: Encoding) -> dict[Any, Any]:  # noqa: ARG002 - the manager decided
        return self._data
