"""Replay of a consumer's own pending entries that are not in flight.

Two kinds of entries are replayed: entries that were received before a restart, and entries in a reply that was lost or
too large.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from streamconsumer.processor.consumer.pending_entries import PAGE_SIZE, Dead, PendingEntry
from streamconsumer.redis_client.replies import parse_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
    from streamconsumer.processor.message import Entry

ANY_IDLE_TIME = timedelta(0)


class OwnPendingReplay:
    """Reads a consumer's own pending entries again, page by page. A restarted consumer begins with this replay."""

    def __init__(self, consumer: RedisConsumer) -> None:
        self._consumer = consumer
        self._after: str | None = ""
        """Id after which the next page begins. None if the replay is complete."""

    @property
    def is_pending(self) -> bool:
        """True if entries may be left to replay."""
        return self._after is not None

    async def read_again(self, message_ids: Sequence[str]) -> list[Entry]:
        """Read entries again that were read once and not started. Leaves out entries that this consumer does not own,
        that were trimmed, or that do not fit into the reply."""
        own = Dead(self._consumer.consumer_id.consumer, ANY_IDLE_TIME)
        pending = [PendingEntry(message_id, 1) for message_id in message_ids]
        return (await self._consumer.pending_entries.claim(pending, own)).entries

    def request(self) -> None:
        """Replay from the beginning, because a reply that may contain entries was lost."""
        self._after = ""

    async def read_page(self, last_delivered_id: str) -> list[Entry]:
        """Return one page of entries. A replay does not change the delivery counts, because it starts no attempt.

        `last_delivered_id` is the id of the last entry that this process received. Until this process has received an
        entry, `last_delivered_id` is the group's position at the start of this process."""
        consumer = self._consumer
        with consumer.ack_buffer.acked_during() as acked_ids:
            count = min(PAGE_SIZE, consumer.read_size.max_count)
            page = await consumer.pending_entries.page(consumer.consumer_id.consumer, count, after=self._after or "")
            excluded = {*consumer.in_flight_ids(), *acked_ids}
            pending = [uncount_lost_read(entry, last_delivered_id) for entry in page]
            pending = [entry for entry in pending if entry.message_id not in excluded]
            claimed = await consumer.claim(pending, Dead(consumer.consumer_id.consumer, ANY_IDLE_TIME))
        if claimed.examined == len(pending):  # otherwise the next page contains the remaining entries
            self._after = page[-1].message_id if len(page) == count else None
        return consumer.mark_suspects([entry for entry in claimed.entries if entry.message_id not in acked_ids])


def uncount_lost_read(pending: PendingEntry, last_delivered_id: str) -> PendingEntry:
    """If the reply with the entry did not reach this process, return the entry with the delivery count 0. Otherwise,
    return the entry unchanged.

    XREADGROUP has set the delivery count of the entry to 1, although no attempt has started. If another process read
    the entry and has ended, it is unknown whether that process started an attempt, so the count stays 1."""
    is_lost_read = pending.deliveries == 1 and parse_id(pending.message_id) > parse_id(last_delivered_id)
    return PendingEntry(pending.message_id, 0) if is_lost_read else pending
