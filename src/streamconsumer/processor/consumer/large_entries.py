"""Claims of pending entries whose values may be too large to be read.

A script claims entries and returns their values only up to a size limit, so that the reply fits into the memory of the
pod. For an entry above the limit, the script returns the field names and the sizes of the values. An entry above the
limit becomes a dead letter without its values.

If the connection is cut while a reply is received, the server or a proxy probably limits the size of replies. After a
connection cut, the claim is repeated with a smaller size limit, down to one entry. If the connection is cut MAX_CUTS
times while one entry is claimed alone, this entry counts as unreadable. A lost reply loses no entry: the entries are
pending with this consumer, and the script returns them again.

The consumer uses the claim script only for redelivered entries, so that reading new entries needs no additional
command.
"""

import logging
from dataclasses import dataclass
from typing import Any

from streamconsumer.processor.consumer.dedicated_connection import DedicatedConnection
from streamconsumer.processor.consumer.manager import StreamManager
from streamconsumer.processor.consumer.memory_limit import VALUE_BYTES, MemoryLimits
from streamconsumer.processor.consumer.raw_connection import ConnectionCut, UnreadableReply
from streamconsumer.processor.consumer.read_size import MIN_BYTES, ReadSize
from streamconsumer.processor.message import Entry, UnreadableEntry
from streamconsumer.redis_client import replies

log = logging.getLogger(__name__)

MAX_CUTS = 3
"""If an entry is claimed alone and the connection is cut this number of times, the entry counts as unreadable."""

MAX_NAME_BYTES, MAX_NAMES_BYTES = 1000, 64_000
"""Maximum size in bytes of each field name, and of all field names together, in the dead letter of an unreadable
entry."""

NAME_OVERHEAD_BYTES = 8
"""Number of bytes that are added to the size of each field name, so that an empty name also has a size."""

REPLY_TIMEOUT_SECONDS = 15.0
"""Maximum time until the reply to a claim begins to arrive. The claim script needs about one second for a million
fields."""

CLAIM_SUBJECT = "the script that claims entries"

ENTRY_CONSTANTS = {
    "MAX_NAME_BYTES": MAX_NAME_BYTES,
    "MAX_NAMES_BYTES": MAX_NAMES_BYTES,
    "NAME_OVERHEAD_BYTES": NAME_OVERHEAD_BYTES,
    "VALUE_BYTES": VALUE_BYTES,
}
"""Constants of the library function `bounded_entries`."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Result of a claim."""

    entries: list[Entry]
    trimmed: int
    """Number of entries that the stream no longer contains."""
    examined: int = 0
    """Number of listed entries that the script has examined, including entries that it could not claim. The remaining
    listed entries did not fit into the reply. After a claim of postponed entries, the number of entries that are no
    longer due."""


class BoundedReads:
    """Runs the scripts that return the values of entries. The first call opens the connection."""

    def __init__(self, manager: StreamManager, limits: MemoryLimits, size: ReadSize) -> None:
        self._limits, self._size = limits, size
        # The script limits the reply. The limit of the connection only protects from a faulty server.
        self.connection = DedicatedConnection(
            manager, 2 * limits.reply_bytes, value_bytes=0, timeout_seconds=REPLY_TIMEOUT_SECONDS
        )
        self.abort, self.close = self.connection.abort, self.connection.close

    async def claim(self, *command: Any, ids_and_counts: list[str | int]) -> Claimed:
        """Run a script. The last arguments of the script are `page_bytes`, `entry_bytes` and `ids_and_counts`.

        The script returns the number of examined entries, the number of trimmed entries, and the claimed entries. If
        the connection is cut, the script runs again with a smaller size.
        """
        cuts, problem = 0, ""
        while True:
            entry_bytes = MIN_BYTES if problem else self._limits.reply_bytes
            page_bytes = self._size.claim_bytes
            try:
                reply = await self.connection.execute(*command, page_bytes, entry_bytes, *ids_and_counts)
            except (ConnectionCut, UnreadableReply) as error:
                if problem:
                    raise
                if isinstance(error, UnreadableReply):  # a repetition would also take too long
                    problem = "" if self._size.shrink_to_minimum() else str(error)
                else:
                    cuts += not self._size.shrink()
                    problem = f"the connection was cut {cuts} times while this entry was read" * (cuts == MAX_CUTS)
                log_fields = {"error": str(error), "bytes": page_bytes, "next_bytes": self._size.claim_bytes}
                log.warning("connection was lost while claiming entries; the next claim is smaller", extra=log_fields)
            else:
                examined, trimmed, raw_entries = replies.array(reply, CLAIM_SUBJECT, 3)
                counts = (replies.count(trimmed, CLAIM_SUBJECT), replies.count(examined, CLAIM_SUBJECT))
                return Claimed(self.parse(raw_entries, problem), *counts)

    async def execute_once(self, *command: Any) -> Any:
        """Run a script. The last arguments of the script are `page_bytes` and `entry_bytes`.

        If the connection is cut, the script does not run again: it has already claimed the entries in the lost reply.
        """
        try:
            return await self.connection.execute(*command, self._size.claim_bytes, self._limits.reply_bytes)
        except (ConnectionCut, UnreadableReply):
            self._size.shrink()
            raise

    def parse(self, raw_entries: Any, problem: str = "") -> list[Entry]:
        """Parse entries that a script with `bounded_entries` has returned."""
        problem = problem or f"the limit for one entry is {self._limits.reply_bytes} bytes"
        return [_to_entry(raw, problem) for raw in replies.array(raw_entries, CLAIM_SUBJECT)]


def _to_entry(raw: Any, problem: str) -> Entry:
    """Parse an entry of the script. An entry above the limit has five elements instead of three."""
    length = 5 if isinstance(raw, list) and len(raw) == 5 else 3
    raw_id, deliveries, raw_fields, *sizes = replies.array(raw, CLAIM_SUBJECT, length)
    [(message_id, fields)] = replies.entries([[raw_id, raw_fields]], CLAIM_SUBJECT)
    deliveries = replies.count(deliveries, CLAIM_SUBJECT)
    if not sizes:
        return Entry.redelivered(message_id, fields, deliveries)
    size_bytes, field_count = (replies.count(size, CLAIM_SUBJECT) for size in sizes)
    text = f"{size_bytes} bytes in {field_count} field{'s' * (field_count > 1)}; {problem}"
    return UnreadableEntry(message_id, fields, deliveries, text)
