"""Consumer for a user's own manager: polls and acknowledges entries one by one, without lease renewal or claims."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol
from streamconsumer.processor.dead_letters.writer import EncodedDeadLetter
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import Encoding, Entry
from streamconsumer.redis_client.outcome import Outcome

_NEEDS_STREAM_MANAGER = "{} need a StreamManager; a custom manager has only create_group, read_events and ack_event"


class PollingConsumer:
    """Consumer that uses the three coroutines of a custom manager."""

    def __init__(self, manager: StreamManagerProtocol, stream: str, group: str, consumer: str) -> None:
        self._manager, self._stream, self._group, self._consumer_name = manager, stream, group, consumer
        self.is_blocking = False
        self.replay = None
        self.on_stream_recreated: Callable[[], object] = lambda: None
        """Not called, because this consumer does not detect a stream that was deleted and created again."""
        self.encoding: Encoding = "utf-8"
        self.ack_nowait: Callable[[str], None] | None = None
        self.claimer = None

    async def open(self) -> None:
        """Create the group."""
        await self._manager.create_group(self._stream, self._group)

    async def read(self, count: int) -> list[Entry]:
        """Return up to `count` new entries."""
        events = await self._manager.read_events(self._stream, self._group, self._consumer_name, count)
        return [DecodedEntry(message_id, data) for message_id, data in events or []]

    def on_entry_removed(self, message_id: str) -> None:
        """Do nothing, because this consumer does not renew leases."""

    async def interrupt_read(self) -> None:
        """Do nothing, because a poll does not wait for entries."""

    async def ack(self, message_id: str) -> None:
        """Acknowledge an entry."""
        await self._manager.ack_event(self._stream, self._group, message_id)

    async def flush(self) -> None:
        """Do nothing, because no acknowledgement is buffered."""

    async def start_attempt(self, message_id: str, deliveries: int) -> Outcome:  # noqa: ARG002 - the manager cannot count
        """Return DONE, because every attempt may start."""
        return Outcome.DONE

    async def set_delivery_counts(self, entries: Sequence[tuple[str, int]]) -> None:
        """Do nothing, because the manager has no coroutine for delivery counts."""

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> list[Outcome]:
        """Do nothing, because the manager has no coroutine for postponing. The entries stay pending."""
        return [Outcome.DONE] * len(entries)

    async def dead_letter_many(self, dead_letters: Sequence[EncodedDeadLetter]) -> list[Outcome | Exception]:  # noqa: ARG002 - always raises
        """Raise InvalidSettings, because the manager has no coroutine for dead letters."""
        raise InvalidSettings(_NEEDS_STREAM_MANAGER.format("dead letters"))

    async def commit_effects(self, message_id: str, effects: Effects) -> Outcome:  # noqa: ARG002 - always raises
        """Raise InvalidSettings, because the manager has no coroutine for effects."""
        raise InvalidSettings(_NEEDS_STREAM_MANAGER.format("effects"))

    async def close(self) -> None:
        """Do nothing, because the user closes the manager."""


class DecodedEntry(Entry):
    """Entry that a user's own manager has already decoded."""

    def __init__(self, message_id: str, data: Mapping[Any, Any]) -> None:
        super().__init__(message_id, ())
        self._data = dict(data)

    def data(self, encoding: Encoding) -> dict[Any, Any]:  # noqa: ARG002 - the manager has decoded
        """Return the data as the manager decoded it."""
        return self._data
