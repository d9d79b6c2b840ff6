"""Scale from zero: one blocking read per endpoint waits for entries in the streams of all StreamConsumers without pods.

The blocking read is an XREAD, because XREAD needs no consumer group and does not consume entries. The server replies as
soon as an entry is added. The read is repeated every 30 s, to detect a connection that the network dropped silently.
Polling continues during the blocking read, and finds entries that the blocking read missed.

The reply contains the new entry, so the operator limits the size of the reply. If the reply exceeds this limit, the
operator closes the connection, and reads only the last ids of the streams.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.redis_monitor.probe import last_id_command
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import PipelineClient
from streamconsumer.redis_client.replies import array, entry_id, parse_id, text
from streamconsumer.redis_client.reply_limits import ReplyTooLarge

BLOCK_SECONDS = 30
TIMEOUT_SECONDS = BLOCK_SECONDS + 5.0

RETRY_DELAYS_SECONDS = 0.5, 10.0
"""First and maximum delay before a new connection. Each delay is twice the previous delay.

The first delay is short, because the server may have restarted or a proxy may have closed an idle connection. During a
delay, polling finds new entries."""

BATCH_WINDOW_SECONDS = 0.05
"""Time during which streams that scale to zero are collected, so that one blocking read covers all these streams."""

MIN_INTERVAL_SECONDS = 1.0
"""Minimum time between a reported entry and the next blocking read. Without this pause, a hostile server that reports
an entry to every read would cause constant polls if the StreamConsumer stays at zero pods."""

log = logging.getLogger(__name__)


class WatchedStream(NamedTuple):
    """Stream of a StreamConsumer without pods."""

    stream: str
    after_id: str
    """Id of the last known entry. Entries after this id are new."""


class ScaleFromZeroWatcher:
    """Calls `on_entry` with the key of each watched StreamConsumer whose stream gets a new entry.

    `connect` returns a client whose timeout is longer than BLOCK_SECONDS, or None if no connection is possible yet."""

    def __init__(self, on_entry: Callable[[Key], None], connect: Callable[[], PipelineClient | None]) -> None:
        self._on_entry, self._connect = on_entry, connect
        self._watched: dict[Key, WatchedStream] = {}
        self._changed = asyncio.Event()
        self._must_reconnect = False
        self._entry_reported = False

    def watch(self, key: Key, stream: str, after_id: str) -> None:
        """Start to wait for an entry after `after_id`."""
        watched = self._watched.get(key)
        if watched is None or parse_id(watched.after_id) < parse_id(after_id):
            self._watched[key] = WatchedStream(stream, after_id)
        if watched is None:
            self._changed.set()

    def unwatch(self, key: Key) -> None:
        """Stop waiting for entries of this StreamConsumer. The poller calls this method if the StreamConsumer has pods
        or was deleted."""
        if self._watched.pop(key, None):
            self._changed.set()

    def reconnect(self) -> None:
        """Replace the connection, because its settings or certificates may have changed."""
        self._must_reconnect = True
        self._changed.set()

    async def run(self) -> None:
        """Wait for entries until cancelled. After any error, reconnect with backoff."""
        client: PipelineClient | None = None
        first_delay, max_delay = RETRY_DELAYS_SECONDS
        delay = first_delay
        try:
            while True:
                try:
                    if not self._watched or client is None or self._must_reconnect:
                        client = await self._connect_when_watching(client)
                    if client is not None and await self._wait_for_entries(client):
                        delay = first_delay
                        await self._pause_after_entry()
                        continue
                except Exception as error:  # noqa: BLE001 - polling continues and reports the cause
                    log.debug(
                        "failed to wait for new entries in the watched streams; retrying",
                        extra={"error": type(error).__name__},
                    )
                await self._close(client)
                client = None
                await asyncio.sleep(delay)
                delay = min(2 * delay, max_delay)
        finally:
            await self._close(client)

    async def _pause_after_entry(self) -> None:
        """Wait before the next blocking read if the last read has reported an entry."""
        if self._entry_reported:
            self._entry_reported = False
            await asyncio.sleep(MIN_INTERVAL_SECONDS)

    async def _connect_when_watching(self, client: PipelineClient | None) -> PipelineClient | None:
        """Close the client, wait until a stream is watched, and connect. A connection exists only while a stream is
        watched."""
        await self._close(client)
        while not self._watched:
            self._changed.clear()
            await self._changed.wait()
        self._must_reconnect = False
        return self._connect()

    async def _close(self, client: PipelineClient | None) -> None:
        if client is not None:
            await client.close()

    async def _wait_for_entries(self, client: PipelineClient) -> bool:
        """Wait until an entry is added, the blocking read ends or the watched streams change. Returns False after a
        Redis error."""
        await asyncio.sleep(BATCH_WINDOW_SECONDS)
        self._changed.clear()
        watched = dict(self._watched)
        if not watched or self._must_reconnect:
            return True
        reading = asyncio.create_task(client.execute([_xread_command(watched.values())]))
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            if not reading.done():
                reading.cancel()  # closes the connection, which ends the blocking read
            await asyncio.wait({reading, changed})
        if reading.cancelled():
            return True
        replies = reading.result()
        if isinstance(replies, RedisErrorInfo):
            if replies.code == ReplyTooLarge.__name__:
                self._notify(await _last_ids(client, watched.values()), watched)
            return False
        if isinstance(replies[0], RedisErrorInfo):
            return False
        self._notify(_ids_in_reply(replies[0]), watched)
        return True

    def _notify(self, last_ids: dict[str, str], watched: dict[Key, WatchedStream]) -> None:
        for key, (stream, after_id) in watched.items():
            is_new = stream in last_ids and parse_id(last_ids[stream]) > parse_id(after_id)
            if is_new and key in self._watched:
                # If the StreamConsumer stays at zero pods, wait for an entry after this entry.
                self._watched[key] = WatchedStream(stream, last_ids[stream])
                self._on_entry(key)
                self._entry_reported = True


def _ids_in_reply(reply: Any) -> dict[str, str]:
    """Return the id of the last entry of each stream in the reply to XREAD."""
    last_ids = {}
    for line in array(reply or [], "XREAD"):
        stream, entries = array(line, "XREAD", 2)
        (entry,) = array(entries, "XREAD", 1)  # COUNT 1
        message_id, _ = array(entry, "XREAD", 2)
        last_ids[text(stream, "XREAD")] = entry_id(message_id, "XREAD")
    return last_ids


async def _last_ids(client: PipelineClient, watched: Iterable[WatchedStream]) -> dict[str, str]:
    """Return the last id of each stream. Use this function if a new entry exceeds the size limit of the client, because
    XREAD returns the whole entry."""
    streams = [*dict.fromkeys(stream for stream, _ in watched)]
    replies = await client.execute([last_id_command(stream) for stream in streams])
    if isinstance(replies, RedisErrorInfo):
        return {}
    return {
        stream: entry_id(reply, "XINFO STREAM")
        for stream, reply in zip(streams, replies, strict=True)
        if not isinstance(reply, RedisErrorInfo)
    }


def _xread_command(watched: Iterable[WatchedStream]) -> tuple[object, ...]:
    after_ids: dict[str, str] = {}
    for stream, after_id in watched:  # two groups may share a stream
        if stream not in after_ids or parse_id(after_id) < parse_id(after_ids[stream]):
            after_ids[stream] = after_id
    return ("XREAD", "COUNT", 1, "BLOCK", BLOCK_SECONDS * 1000, "STREAMS", *after_ids, *after_ids.values())
