"""Snapshot of a consumer group in a companion key: its last-delivered id and its pending ids.

A group that was destroyed can be restored from the snapshot, even if its consumers die at the same time. XGROUP DESTROY
deletes the group's position and its pending entries list. A running process can restore the entries that it has in
flight, but a killed process cannot. If the reply to a read is lost, no process knows the entries in the reply. While
entries are in flight, one consumer therefore saves the position and the pending ids once a second. Every unacknowledged
entry is listed in the snapshot or comes after the snapshot's position. After a restore, messages that were acknowledged
after the last snapshot may be handled again. The last snapshot is usually at most one second old.

An entry that is restored without a known owner is pending with the pseudo consumer `~postponed` for RESTORE_GRACE. If a
consumer has the entry in flight, the consumer takes the entry back with its next lease renewal. If no consumer takes
the entry back, the entry becomes due, and any consumer may claim it. The due time of a restored entry ends with half a
millisecond (.5), so that restored entries can be distinguished from postponed entries.

The restore of a group with many pending entries takes several scripts, each with one page of entries. The snapshot
stores how far the restore has come, so that any consumer can continue it. Until all entries are restored, consumers
save no snapshot, but may read, renew, settle and claim entries.

The consumer `~postponed` exists in every group that a processor created or restored. If a group does not have the
consumer `~postponed`, another program created the group. In a group that another program created, a processor restores
the missing entries before it saves the next snapshot.

The snapshot also stores the format of the companion keys. A processor that finds a newer format reads no entries.
"""

from datetime import timedelta
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import entry_keys, group_key
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import Script, load_script

SNAPSHOT_INTERVAL = timedelta(seconds=1)
"""Interval at which a consumer with entries in flight saves the snapshot."""

RESTORE_GRACE = timedelta(milliseconds=1500)
"""Time in which a consumer can take back a restored entry: three heartbeat intervals, plus a margin for delays."""

MAX_SNAPSHOT_IDS = 10_000
"""Maximum number of pending ids in a snapshot. If more entries are pending, the previous snapshot is kept, which is
older but still correct."""

MAX_DELIVERED = 900
"""If more entries than this number were delivered after the snapshot, these entries are not restored one by one. The
restored group then begins at the snapshot's position."""

FORMAT = 1
"""Format of the companion keys that this version reads and writes."""

SAVE = load_script(
    "save_snapshot",
    MIN_AGE=replies.to_milliseconds(SNAPSHOT_INTERVAL * 0.8),
    MAX_SNAPSHOT_IDS=MAX_SNAPSHOT_IDS,
    MAX_OWNERS=900,
    FORMAT=FORMAT,
)
RESTORE_GROUP = load_script("restore_group", MAX_DELIVERED=MAX_DELIVERED)
RESTORE_ENTRIES = load_script("restore_entries", PAGE=100, GRACE=replies.to_milliseconds(RESTORE_GRACE))


class NewerFormat(Exception):
    """The companion keys have a format that this version does not know."""


class RestoredGroup(NamedTuple):
    """Result of the script that creates a missing group."""

    position: str
    """Position at which the new group starts. Meaningless if the group existed."""

    is_new_stream: bool
    """True if the stream was deleted and created again since this consumer last read from it."""


class GroupSnapshot:
    """Saves and restores the snapshot of a group, for one of the group's consumers."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._group_and_consumer = execute, (group, consumer)
        self._stream = stream
        self._keys = [*entry_keys(stream, group), group_key(stream, group, "last-known")]

    async def save(self) -> bool:
        """Save the state of the group if no consumer has saved it within the last 0.8 s. Returns False if a consumer
        has saved the state within this time; the caller must then call `save` again later.

        If entries of a lost group must still be restored, restores them first. If the server is out of memory, the
        previous snapshot is kept. Raises NewerFormat.
        """
        if (reply := await self._save()) == b"restoring":
            await self.restore_entries()
            reply = await self._save()
        return bool(reply != b"recent")

    async def _save(self) -> Any:
        try:
            reply = await self._run_script(SAVE)
        except ResponseError as error:
            if not str(error).startswith("NEWERFORMAT "):
                raise
            found = str(error).removeprefix("NEWERFORMAT ")
            raise NewerFormat(
                f"stream {self._stream!r}, group {self._group_and_consumer[0]!r}: found companion keys of format "
                f"{found:.20}, expected at most {FORMAT}; use the StreamConsumer release that wrote them"
            ) from None
        subject = "the script that saves the snapshot"
        return replies.one_of(reply, subject, (b"saved", b"skipped", b"recent", b"restoring"))

    async def restore_group(self, last_delivered_id: str, start_from: str) -> RestoredGroup:
        """Recreate the group at its previous position if it is missing.

        The caller must then renew the leases of its entries in flight, and call `restore_entries`.
        """
        subject = "the script that recreates the group"
        reply = await self._run_script(RESTORE_GROUP, last_delivered_id, start_from)
        begin, is_new_stream = replies.array(reply, subject, 2)
        return RestoredGroup(replies.text(begin, subject), bool(replies.count(is_new_stream, subject)))

    async def restore_entries(self) -> None:
        """Make the entries of a lost group pending with the pseudo consumer `~postponed`, except entries that a
        consumer has already taken back."""
        while replies.one_of(await self._run_script(RESTORE_ENTRIES), "the script that restores entries", (1, 0)):
            pass

    async def _run_script(self, script: Script, *arguments: Any) -> Any:
        return await self._execute("EVAL", script, len(self._keys), *self._keys, *self._group_and_consumer, *arguments)
