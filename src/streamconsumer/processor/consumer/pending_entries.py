"""The pending entries list of a group: looking into it, and taking entries out of it for this consumer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamconsumer.processor.message import Entry
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import Execute


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """One pending entry."""

    message_id: str
    deliveries: int


class PendingEntries:
    """What is pending in a group, seen by one of its consumers."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._stream, self._group, self._consumer_name = execute, stream, group, consumer

    async def page(
        self, owner: str, count: int, *, after: str = "", idle: timedelta | None = None
    ) -> list[PendingEntry]:
        """The first entries of a consumer behind an id; only such as show no sign of life for so long."""
        silent = ("IDLE", replies.to_milliseconds(idle)) if idle else ()
        begin = f"({after}" if after else "-"
        found = await self._execute("XPENDING", self._stream, self._group, *silent, begin, "+", count, owner)
        return [PendingEntry(each[0].decode(), int(each[3])) for each in found]

    async def claim(self, pending: Collection[PendingEntry], idle: timedelta) -> tuple[list[Entry], int]:
        """These entries, as this consumer's now, as far as they still show no sign of life for so long, which decides
        between consumers that ask for the same. How often they were begun stays as it is: they have not begun yet.
        Also returns how many of them had been trimmed from the stream, and are settled."""
        entries: list[Entry] = []
        for deliveries in sorted({each.deliveries for each in pending}):
            ids = [each.message_id for each in pending if each.deliveries == deliveries]
            claim = ("XCLAIM", self._stream, self._group, self._consumer_name, replies.to_milliseconds(idle), *ids)
            claimed = await self._execute(*claim, "RETRYCOUNT", deliveries)
            entries += _to_entries(claimed, deliveries)
        taken = {entry.message_id for entry in entries}
        missing = [each.message_id for each in pending if each.message_id not in taken]
        return sorted(entries, key=lambda entry: replies.parse_id(entry.message_id)), await self._settle_trimmed(
            missing
        )

    async def _settle_trimmed(self, message_ids: list[str]) -> int:
        """Entries that are not in the stream any more can never be handled. Since Redis 7.0 claiming one settles it."""
        trimmed = 0
        for message_id in message_ids:
            if not await self._execute("XRANGE", self._stream, message_id, message_id):
                await self._execute("XACK", self._stream, self._group, message_id)
                trimmed += 1
        return trimmed


def _to_entries(claimed: Sequence[Any], deliveries: int) -> list[Entry]:
    """Redis 6.2 also claims what was trimmed, as nothing."""
    return [Entry.redelivered(each[0], each[1], deliveries) for each in claimed if each is not None and each[0]]
