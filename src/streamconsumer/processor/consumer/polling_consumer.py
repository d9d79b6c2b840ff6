"""The consumer of a user's own manager: it polls, acknowledges entries one by one, and can neither renew nor claim."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.consumer.protocol import Manager
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import Encoding, Entry

_NEEDS_MORE = "{} need a StreamManager; a user's own manager has only the three coroutines"


class PolledIntake:
    """A user's own manager as an intake."""

    def __init__(self, manager: Manager, stream: str, group: str, consumer: str) -> None:
        self._manager, self._stream, self._group, self._consumer = manager, stream, group, consumer
        self.blocks = False
        self.encoding: Encoding = "utf-8"
        self.acknowledge_soon: Callable[[str], None] | None = None
        self.caring = None

    async def open(self) -> None:
        await self._manager.create_group(self._stream, self._group)

    async def read(self, count: int) -> list[Entry]:
        events = await self._manager.read_events(self._stream, self._group, self._consumer, count)
        return [ManagedEntry(message_id, data) for message_id, data in events or []]

    async def wake(self) -> None:
        """A poll ends by itself."""

    async def acknowledge(self, message_id: str) -> None:
        await self._manager.ack_event(self._stream, self._group, message_id)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def begin(self, message_id: str, deliveries: int) -> int:  # noqa: ARG002 - not among the three coroutines
        return 1

    async def recount(self, entries: Sequence[tuple[str, int]]) -> None:
        """Nobody counts: that is not among the three coroutines either."""

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """They stay pending: handing back is not among the three coroutines."""

    async def bury_all(self, letters: Sequence[tuple[str, Sequence[bytes]]]) -> list[bool | Exception]:  # noqa: ARG002 - not among the three coroutines
        raise InvalidSettings(_NEEDS_MORE.format("dead letters"))

    async def commit(self, message_id: str, effects: Effects) -> bool:  # noqa: ARG002 - not among the three coroutines
        raise InvalidSettings(_NEEDS_MORE.format("effects"))

    async def close(self) -> None:
        """The manager is the user's to close."""


class ManagedEntry(Entry):
    """An entry that a user's own manager has decoded in its own way."""

    def __init__(self, message_id: str, data: Mapping[Any, Any]) -> None:
        super().__init__(message_id, ())
        self._data = dict(data)

    def data(self, encoding: Encoding) -> dict[Any, Any]:  # noqa: ARG002 - the manager decided
        return self._data
