"""Pending entries list of a group: lists entries, and claims entries for this consumer.

The entries are pending with any consumer of the group, or with the pseudo consumer for postponed entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.processor.consumer.large_entries import CLAIM_SUBJECT, ENTRY_CONSTANTS, BoundedReads, Claimed
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import entry_keys, group_key
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import load_script


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """Id and delivery count of a pending entry."""

    message_id: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class Dead:
    """A consumer whose entries may be claimed, and the evidence that the consumer is dead."""

    name: str
    idle: timedelta
    """Minimum idle time of the entries that may be claimed."""
    registration: str = ""
    """Registration whose connections have ended. Empty if the idle time alone proves that the consumer is dead."""
    run_id: str = ""
    """Run id of the server whose connections were listed."""


AFTER_ALL_ENTRIES = f"{2**64 - 1}-{2**64 - 2}"
"""Id for an XREADGROUP that returns no entries. Redis treats the greatest possible id like `>`, so the id before the
greatest id is used."""

PAGE_SIZE = 200
"""Maximum number of pending entries that one command lists or moves."""

MAX_CLAIMED, MAX_DUE = 120, 150
"""Maximum numbers of pending and of due entries that one command examines, see `redis_client.scripts`."""

CLAIM = load_script("claim", **ENTRY_CONSTANTS)
CLAIM_DUE = load_script("claim_due", **ENTRY_CONSTANTS)


class PendingEntries:
    """Pending entries list of a group, used by one of its consumers."""

    def __init__(self, execute: Execute, reads: BoundedReads, stream: str, group: str, consumer: str) -> None:
        self._execute, self._reads = execute, reads
        self._stream, self._group, self._consumer_name = stream, group, consumer
        self._keys = entry_keys(stream, group)
        self._snapshot_key = group_key(stream, group, "last-known")
        self._registrations_key = group_key(stream, group, "registrations")

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
        lines = [replies.array(line, "XPENDING", 4) for line in replies.array(reply, "XPENDING")]
        return [
            PendingEntry(replies.entry_id(message_id, "XPENDING"), replies.count(deliveries, "XPENDING"))
            for message_id, _, _, deliveries in lines
        ]

    async def claim(self, pending: Sequence[PendingEntry], dead: Dead, limit: int | None = None) -> Claimed:
        """Claim up to `limit` entries of one consumer for this consumer. By default, claims all entries.

        Redis claims an entry only if the entry has been idle for at least `dead.idle`. A claim resets the idle time, so
        that only the first of several simultaneous claims of an entry succeeds. The delivery counts are set to the
        counts in `pending`, because a claim starts no attempt.
        """
        if not pending:
            return Claimed([], 0)
        keys = (*self._keys, self._registrations_key)
        command = ("EVAL", CLAIM, len(keys), *keys, self._group, self._consumer_name)
        evidence = (replies.to_milliseconds(dead.idle), dead.name, dead.registration, dead.run_id)
        ids_and_counts = [part for entry in pending for part in (entry.message_id, entry.deliveries)]
        limit = len(pending) if limit is None else limit
        return await self._reads.claim(*command, *evidence, limit, ids_and_counts=ids_and_counts)

    async def claim_due(self, count: int) -> Claimed:
        """Claim up to `count` postponed entries that are due. Examines at most MAX_DUE entries."""
        keys = (*self._keys, self._snapshot_key)
        command = ("EVAL", CLAIM_DUE, len(keys), *keys, self._group, self._consumer_name)
        reply = await self._reads.execute_once(*command, MAX_DUE, count)
        trimmed, raw_entries, examined = replies.array(reply, CLAIM_SUBJECT, 3)
        counts = (replies.count(trimmed, CLAIM_SUBJECT), replies.count(examined, CLAIM_SUBJECT))
        return Claimed(self._reads.parse(raw_entries), *counts)
