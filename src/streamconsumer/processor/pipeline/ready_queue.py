"""Queue of entries that may start next. The functions in this module use neither Redis nor a clock.

Entries that were claimed from other consumers start first. After these entries, due retries and new entries start in
turns. Entries of each of these kinds start in order of arrival, except entries with an ordering key, and suspects.

If an ordering key is set, entries with the same key value start one after another. While the first entry with a key
value is not settled, later entries with this value wait in a queue, which is called a lane.

A suspect is an entry that may have crashed the process of a dead consumer. Suspects start one at a time, so that at
most one suspect is running if the process crashes. Suspects alternate with other entries, so that suspects whose
handlers fail without a crash do not block the other entries.
"""

from collections import deque
from collections.abc import Callable, Collection

from streamconsumer.processor.message import CLAIMED, NEW, Entry

MAX_BLOCKED = 20_000
MAX_BLOCKED_BYTES = 32 * 1024 * 1024
"""Maximum number and total size of blocked entries. If the first entry of a lane fails repeatedly, the pod stops
reading only when a limit is reached. To renew 20,000 leases, the heartbeat needs about 3 % of the time of a Redis
server."""


class BlockedEntries:
    """Entries that wait for another entry with the same ordering key, or for a retry.

    Both the number and the total size of blocked entries are limited. A pod with large entries therefore stops reading
    after fewer entries."""

    def __init__(self) -> None:
        self._sizes: dict[Entry, int] = {}
        self.size_bytes = 0

    @property
    def is_full(self) -> bool:
        """True if the processor must not read more entries."""
        return len(self._sizes) >= MAX_BLOCKED or self.size_bytes >= MAX_BLOCKED_BYTES

    def add(self, entry: Entry) -> None:
        """Add an entry, or update the size of an entry that was added before."""
        self.discard(entry)
        self._sizes[entry] = size = entry.size_bytes()
        self.size_bytes += size

    def discard(self, entry: Entry) -> None:
        """Remove an entry. Does nothing if the entry is not blocked."""
        self.size_bytes -= self._sizes.pop(entry, 0)


class ReadyQueue:
    """Entries in this process that have not started and do not wait for a retry."""

    def __init__(self, ordering_key: str | None = None, blocked: BlockedEntries | None = None) -> None:
        self._ordering_key = ordering_key.encode() if ordering_key else None
        self.ready: deque[Entry] = deque()
        """New entries."""
        self.due: deque[Entry] = deque()
        """Entries whose retry is due."""
        self.claimed: deque[Entry] = deque()
        """Entries that were claimed, except suspects."""
        self.suspects: deque[Entry] = deque()
        """Suspects. A suspect whose turn has come starts before the entries in the other queues."""
        self._active_suspect: Entry | None = None
        """Suspect that is running. None if no suspect is running."""
        self._is_others_turn = self._is_due_turn = False
        self._lanes: dict[bytes, deque[Entry]] = {}
        """Entries that wait until an earlier entry with the same ordering key is settled, grouped by ordering key."""
        self._blocked = BlockedEntries() if blocked is None else blocked
        """Blocked entries, including the entries in `_lanes`. The in-flight table uses the same object."""

    def __len__(self) -> int:
        """Return the number of entries that wait only for a slot. Entries that wait in a lane are not included."""
        return len(self.ready) + len(self.due) + len(self.claimed) + len(self.suspects)

    @property
    def _queues(self) -> tuple[deque[Entry], ...]:
        return self.suspects, self.claimed, self.due, self.ready

    def put(self, entry: Entry) -> None:
        """Add a new entry. If the value of its ordering key has a lane, the entry waits in this lane."""
        if self._ordering_key is not None and (key := entry.field_value(self._ordering_key)) is not None:
            entry.lane = key
            if key in self._lanes:
                self._lanes[key].append(entry)
                self._blocked.add(entry)
                return
            self._lanes[key] = deque()
        self.requeue(entry)

    def put_all(self, entries: Collection[Entry], *, are_new: bool) -> None:
        """Add entries in the given order. `are_new` is True if the origin of all entries is `NEW`."""
        if are_new and self._ordering_key is None:
            self.ready.extend(entries)
        else:
            for entry in entries:
                self.put(entry)

    def requeue(self, entry: Entry) -> None:
        """Add an entry that does not have to wait for another entry with the same ordering key."""
        if entry.is_suspect:
            self.suspects.append(entry)
        elif entry.origin is NEW:
            self.ready.append(entry)
        else:
            (self.claimed if entry.origin is CLAIMED else self.due).append(entry)

    def pop(self) -> Entry | None:
        """Remove and return the next entry. Returns None if no entry may start."""
        has_others = bool(self.ready or self.due or self.claimed)
        if self.suspects and self._active_suspect is None and not (self._is_others_turn and has_others):
            self._is_others_turn = True
            self._active_suspect = self.suspects.popleft()
            return self._active_suspect
        self._is_others_turn = False
        return self.pop_if(lambda _: True)

    def pop_untried(self) -> Entry | None:
        """Remove and return the next new entry. Returns None if there is no new entry."""
        return self.ready.popleft() if self.ready else None

    def pop_if(self, may_start: Callable[[Entry], bool]) -> Entry | None:
        """Remove and return the next entry that is not a suspect. Returns None if there is no such entry, or if
        `may_start` returns False for the entry."""
        due_or_new = self.due if self.due and (self._is_due_turn or not self.ready) else self.ready
        queue = self.claimed or due_or_new
        if not queue or not may_start(queue[0]):
            return None
        self._is_due_turn = queue is not self.due
        return queue.popleft()

    def release_turn(self, entry: Entry) -> None:
        """If the entry is the running suspect, let the next suspect start. Other entries in the lane of this entry
        continue to wait."""
        if entry is self._active_suspect:
            self._active_suspect = None

    def complete(self, entry: Entry) -> None:
        """Record that an entry has been settled. The next entry with the same ordering key may then start."""
        self.release_turn(entry)
        if entry.lane is None:
            return
        lane = self._lanes[entry.lane]
        if lane:
            self._blocked.discard(lane[0])
            self.requeue(lane.popleft())
        else:
            del self._lanes[entry.lane]

    def remove(self, entry: Entry) -> None:
        """Remove an entry that another consumer has claimed before the entry started."""
        for queue in self._queues:
            if entry in queue:
                queue.remove(entry)
                self.complete(entry)
                return
        if entry.lane is not None and entry in (lane := self._lanes[entry.lane]):
            lane.remove(entry)
            self._blocked.discard(entry)

    def clear(self) -> list[Entry]:
        """Remove and return all unstarted entries."""
        queues = (*self._queues, *self._lanes.values())
        unstarted = [entry for queue in queues for entry in queue]
        for queue in queues:
            queue.clear()
        for entry in unstarted:
            self._blocked.discard(entry)
        return unstarted
