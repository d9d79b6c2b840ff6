"""Consumer for a custom stream manager: polls and acknowledges entries one by one, without lease renewal or claims."""

import asyncio
import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.consumer.protocol import StreamManagerProtocol
from streamconsumer.processor.dead_letters.writer import EncodedDeadLetter
from streamconsumer.processor.handler.effects import Effects
from streamconsumer.processor.message import Encoding, Entry
from streamconsumer.processor.metrics import Metrics
from streamconsumer.redis_client.outcome import Outcome

log = logging.getLogger(__name__)

_NEEDS_STREAM_MANAGER = "{} need a StreamManager; a custom manager has only create_group, read_events and ack_event"


class PollingConsumer:
    """Consumer that uses the three coroutines of a custom stream manager."""

    leases_valid_until = math.inf

    def __init__(
        self, manager: StreamManagerProtocol, stream: str, group: str, consumer: str, metrics: Metrics
    ) -> None:
        self._manager, self._stream, self._group, self._consumer_name = manager, stream, group, consumer
        self._metrics = metrics
        self.is_blocking = False
        self.replay = None
        self.on_stream_recreated: Callable[[], object] = lambda: None
        """Not called, because this consumer does not detect a stream that was deleted and created again."""
        self.encoding: Encoding = "utf-8"
        self.claimer = None
        self._read: asyncio.Future[Any] | None = None
        """Call of the manager's `read_events`. None before the first read."""

    async def open(self) -> None:
        """Create the group. A manager may raise an error if the group already exists; the error is ignored."""
        try:
            await _run(_awaitable("create_group", self._manager.create_group(self._stream, self._group)))
        except Exception as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def read(self, count: int) -> list[Entry]:
        """Return up to `count` new entries. If the group is missing, creates it again and raises the error."""
        read = self._manager.read_events(self._stream, self._group, self._consumer_name, count)
        self._read = asyncio.ensure_future(_awaitable("read_events", read))
        try:
            events = await _run(self._read)
        except Exception as error:
            if "NOGROUP" in str(error):
                await self.open()
            raise
        entries: list[Entry] = []
        for event in events or ():
            try:
                message_id, data = event
                entries.append(DecodedEntry(_check_id(message_id), data))
            except (TypeError, ValueError):  # not quoted, because it contains data of users
                log_fields = {"found": type(event).__name__}
                log.error("item of read_events ignored; expected (message id, dict)", extra=log_fields)  # noqa: TRY400
        return entries

    def on_entry_removed(self, message_id: str) -> None:
        """Do nothing, because this consumer does not renew leases."""

    async def interrupt_read(self) -> None:
        """Wait until the current read has ended. The read of the stream manager may wait for entries, so the caller
        limits the time of this call."""
        if self._read is not None:
            await asyncio.wait([self._read])

    def end_long_read(self) -> None:
        """Do nothing, because the manager decides how long a read waits."""

    async def ack(self, message_id: str) -> None:
        """Acknowledge an entry."""
        await _run(_awaitable("ack_event", self._manager.ack_event(self._stream, self._group, message_id)))
        self._metrics.acknowledged += 1

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


def _awaitable(name: str, call: Any) -> Awaitable[Any]:
    """Return the result of a method of the manager. Raises InvalidSettings if the method is not a coroutine."""
    if not inspect.isawaitable(call):
        raise InvalidSettings(
            f"stream_manager: {name} returned {type(call).__name__}, expected a coroutine; define it with `async def`"
        )
    return call


async def _run(call: Awaitable[Any]) -> Any:
    """Await a call of the manager. If the current task is cancelled, this method ends immediately, even if the call
    continues. Raises RuntimeError if the call raises CancelledError or another error that is not a subclass of
    Exception."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
    try:
        return task.result()
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"the stream manager raised {type(error).__name__}") from error


def _check_id(message_id: Any) -> Any:
    """Return the id of an entry. Raises TypeError if the id is neither text nor bytes."""
    if not isinstance(message_id, str | bytes):
        raise TypeError
    return message_id


class DecodedEntry(Entry):
    """Entry that a custom stream manager has already decoded."""

    def __init__(self, message_id: str, data: Mapping[Any, Any]) -> None:
        super().__init__(message_id, ())
        self._data = {**data}  # raises TypeError unless `data` is a mapping

    def data(self, encoding: Encoding) -> dict[Any, Any]:  # noqa: ARG002 - the manager has decoded
        """Return the data as the manager decoded it."""
        return self._data
