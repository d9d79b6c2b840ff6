"""Recovery of a consumer whose group is missing, or whose stream was deleted and created again.

Another consumer may create the missing group first. A consumer that was busy during this time gets no error, and
continues to read as if the new stream were the previous stream. Such a consumer detects the new stream by an id that is
smaller than the last id that it received.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import parse_id
from streamconsumer.redis_client.scripts import LAST_GENERATED_ID

if TYPE_CHECKING:
    from streamconsumer.processor.consumer.redis_consumer import RedisConsumer

log = logging.getLogger(__name__)


class LostGroup:
    """Recovers one consumer after the loss of its group or of its stream."""

    def __init__(self, consumer: RedisConsumer) -> None:
        self._consumer = consumer
        self.is_unfinished = False
        """True from the detection of a missing group until all entries in flight are pending again."""

    async def recover(self) -> None:
        """Recreate a missing group at its previous position, and make the entries in flight pending again."""
        consumer, self.is_unfinished = self._consumer, True
        position, is_new_stream = await consumer.snapshot.restore_group(consumer.last_delivered_id, "0")
        consumer.metrics.groups_recreated += 1
        stream, group, _ = consumer.consumer_id
        found = {"stream": stream, "group": group, "position": position}
        log.warning("recreated the missing consumer group", extra=found)
        if is_new_stream:
            self._drop_previous_stream()
        await self.restore_ownership()
        await consumer.snapshot.restore_entries()
        if is_new_stream:  # the previous snapshot was deleted, so another loss of the group would lose entries
            await consumer.snapshot.save()

    async def restore_ownership(self) -> None:
        """Make all entries in flight pending again, including entries that were received while the group was
        recreated."""
        await self._consumer.leases.renew(list(self._consumer.in_flight_ids()))
        await self._consumer.leases.register()
        self.is_unfinished = False

    async def detect_new_stream(self, first_id: str) -> None:
        """Drop the entries and acknowledgements of the previous stream if `first_id`, the first id of a read, shows
        that the stream is new. The id alone is no proof, because a group can also be moved to an earlier position of
        the same stream."""
        consumer = self._consumer
        if parse_id(first_id) > (last_delivered := parse_id(consumer.last_delivered_id)):
            return
        reply = await consumer.manager.execute("EVAL", LAST_GENERATED_ID, 1, consumer.consumer_id.stream)
        if parse_id(replies.entry_id(reply, "the script that returns the last id")) < last_delivered:
            self._drop_previous_stream()

    def _drop_previous_stream(self) -> None:
        """Drop all entries and acknowledgements, because the new stream may contain the same ids.

        A lease renewal may have made entries of the new stream pending with this consumer, so this consumer reads its
        pending entries again."""
        log.warning("stream was deleted and created again; dropping this pod's entries of the deleted stream")
        consumer = self._consumer
        consumer.ack_buffer.clear()
        consumer.on_stream_recreated()
        consumer.last_delivered_id = "0-0"
        consumer.replay.request()
