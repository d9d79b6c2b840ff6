"""Queue of entries that may start next. The functions in this module use neither Redis nor a clock.

Entries that were claimed from other consumers start first. Entries whose retry is due and new entries start in turns,
so that neither kind takes more than half of the starts while entries of the other kind wait. Entries of each kind start
in order of arrival, except entries with an ordering key.

If an ordering key is set, entries with the same key value start one after another. While the first entry with a key
value is not settled, later entries with this value wait in a queue, which is called a lane. If many entries wait, the
process keeps only the ids of the later ones, and reads these entries again before they start.

A suspect is an entry that may have crashed the process of a dead consumer. A suspect starts only if no other entry
waits, so that a crash delays no other entry of this process. Suspects start one at a time. While a suspect is next, the
processor reads no entries (`capacity`), so that the other entries soon run out.
"""

from collections import deque
from collections.abc import Callable, Collection
from itertools import islice

from streamconsumer.processor.message import CLAIMED, NEW, Entry

MAX_BLOCKED = 100_000
MAX_BLOCKED_BYTES = 32 * 1024 * 1024
"""Maximum number and total size of blocked entries. If the first entry of a lane fails repeatedly, the pod stops
reading only when a limit is reached. To renew 20,000 leases, the heartbeat needs about 3 % of the time of a Redis
server."""

MAX_LOADED = 1000
MAX_LOADED_BYTES = 8 * 1024 * 1024
"""If the blocked entries exceed this number or total size, further entries that wait in a lane are parked."""


class BlockedEntries:
    """Entries that wait for another entry with the same ordering key, or for a retry.

    Both the number and the total size of blocked entries are limited. New entries are parked at lower limits already. A
    parked entry stays pending in Redis, and the process keeps only its id. When the entry may start, the process reads
    it again."""

    def __init__(self, *, can_park: bool = False) -> None:
        """`can_park` is True if the process can read a pending entry again."""
        self._can_park = can_park
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

    def add_to_lane(self, entry: Entry) -> None:
        """Add an entry that waits in a lane. Parks the entry if it is new and too many entries are loaded."""
        is_crowded = len(self._sizes) >= MAX_LOADED or self.size_bytes + entry.size_bytes() > MAX_LOADED_BYTES
        if self._can_park and is_crowded and entry.origin is NEW:
            entry.park()
        self.add(entry)

    def update(self, entry: Entry) -> None:
        """Update the size of a blocked entry. Does nothing if the entry is not blocked."""
        if entry in self._sizes:
            self.add(entry)

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
        """Suspects, which start after the entries in the other queues."""
        self._active_suspect: Entry | None = None
        """Suspect that is running. None if no suspect is running."""
        self.is_due_turn = True
        """True if a due entry starts before a new entry."""
        self._lanes: dict[bytes, deque[Entry]] = {}
        """Entries that wait until an earlier entry with the same ordering key is settled, grouped by ordering key."""
        self._blocked = BlockedEntries() if blocked is None else blocked
        """Blocked entries, including the entries in `_lanes`. The in-flight table uses the same object."""

    def __len__(self) -> int:
        """Return the number of entries that wait only for a slot. Entries in a lane, and suspects that wait for another
        suspect, are not included."""
        return len(self.ready) + len(self.due) + len(self.claimed) + self.is_suspect_next

    @property
    def is_suspect_next(self) -> bool:
        """True if a suspect waits and no other suspect is running."""
        return bool(self.suspects) and self._active_suspect is None

    def counts(self) -> tuple[int, int, int, int, bool]:
        """Return the numbers of new entries, due entries, claimed entries and suspects, and `is_suspect_next`."""
        return len(self.ready), len(self.due), len(self.claimed), len(self.suspects), self.is_suspect_next

    @property
    def _queues(self) -> tuple[deque[Entry], ...]:
        return self.suspects, self.claimed, self.due, self.ready

    def put(self, entry: Entry) -> None:
        """Add a new entry. If the value of its ordering key has a lane, the entry waits in this lane."""
        if self._ordering_key is not None and (key := entry.field_value(self._ordering_key)) is not None:
            entry.lane = key
            if key in self._lanes:
                self._lanes[key].append(entry)
                self._blocked.add_to_lane(entry)
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
        entry = self.pop_if(lambda _: True)
        if entry is None and self.is_suspect_next:
            entry = self._active_suspect = self.suspects.popleft()
        return entry

    def pop_untried(self) -> Entry | None:
        """Remove and return the next new entry. Returns None if there is no new entry."""
        return self.ready.popleft() if self.ready else None

    def pop_if(self, may_start: Callable[[Entry], bool]) -> Entry | None:
        """Remove and return the next entry that is not a suspect. Returns None if there is no such entry, or if
        `may_start` returns False for the entry."""
        queue = self.claimed or (self.due if self.due and (self.is_due_turn or not self.ready) else self.ready)
        if not queue or not may_start(queue[0]):
            return None
        if queue is not self.claimed:
            self.is_due_turn = queue is self.ready
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

    def parked_with(self, entry: Entry, max_count: int) -> list[Entry]:
        """Return a parked entry and the next parked entries of its lane, at most `max_count` entries."""
        lane = self._lanes[entry.lane] if entry.lane is not None else ()
        return [entry, *islice((each for each in lane if each.is_parked), max_count - 1)]

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
