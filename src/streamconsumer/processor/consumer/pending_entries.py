"""Pending entries list of a group: lists entries, and claims them for this consumer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import Execute


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """Id and delivery count of a pending entry."""

    message_id: str
    deliveries: int


class PendingEntries:
    """Pending entries list of a group, used by one of its consumers."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._stream, self._group, self._consumer_name = execute, stream, group, consumer

    async def page(
        self, owner: str, count: int, *, after: str = "", idle: timedelta | None = None
    ) -> list[PendingEntry]:
        """Return up to `count` pending entries of the consumer `owner`.

        If `after` is set, only entries after this id are returned. If `idle` is set, only entries that have been idle
        for at least this time are returned.
        """
        idle_filter = ("IDLE", replies.to_milliseconds(idle)) if idle else ()
        begin = f"({after}" if after else "-"
        reply = await self._execute("XPENDING", self._stream, self._group, *idle_filter, begin, "+", count, owner)
        return [PendingEntry(line[0].decode(), int(line[3])) for line in reply]

    async def claim(self, pending: Collection[PendingEntry], idle: timedelta) -> tuple[list[Entry], int]:
        """Claim entries for this consumer. Returns the claimed entries, and the number of trimmed entries.

        Redis claims only entries that have still been idle for `idle`. If several consumers claim the same entry, only
        the first claim therefore succeeds. The delivery counts stay unchanged, because no attempt has started. Trimmed
        entries are acknowledged.
        """
        entries: list[Entry] = []
        for deliveries in sorted({entry.deliveries for entry in pending}):
            ids = [entry.message_id for entry in pending if entry.deliveries == deliveries]
            claim = ("XCLAIM", self._stream, self._group, self._consumer_name, replies.to_milliseconds(idle), *ids)
            claimed = await self._execute(*claim, "RETRYCOUNT", deliveries)
            entries += _to_entries(claimed, deliveries)
        claimed_ids = {entry.message_id for entry in entries}
        unclaimed_ids = [entry.message_id for entry in pending if entry.message_id not in claimed_ids]
        entries.sort(key=lambda entry: replies.parse_id(entry.message_id))
        return entries, await self._ack_trimmed(unclaimed_ids)

    async def _ack_trimmed(self, message_ids: list[str]) -> int:
        """Acknowledge the entries that are no longer in the stream, and return their number.

        Such entries can never be handled. Since Redis 7.0, XCLAIM itself removes their ids from the pending entries.
        """
        trimmed = 0
        for message_id in message_ids:
            if not await self._execute("XRANGE", self._stream, message_id, message_id):
                await self._execute("XACK", self._stream, self._group, message_id)
                trimmed += 1
        return trimmed


def _to_entries(claimed: Sequence[Any], deliveries: int) -> list[Entry]:
    """Parse the reply to XCLAIM. Redis 6.2 returns nil for a trimmed entry."""
    return [Entry.redelivered(raw[0], raw[1], deliveries) for raw in claimed if raw is not None and raw[0]]
