"""Queue of entries that may start next. Pure: no clock, no Redis.

Entries start in order of arrival, with two exceptions. With an ordering key, entries with the same key wait in a lane
behind the entry that has its turn, until that entry is settled. Suspects, entries whose consumers died more than once
while they were running, start one at a time and alternate with other entries. If a suspect crashes this process too,
no other suspect was running. If a suspect only fails, it does not block the rest.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from streamconsumer.processor.message import Entry

MAX_BLOCKED = 1000
MAX_BLOCKED_BYTES = 32 * 1024 * 1024


class AdmissionGate(Protocol):
    """Decides whether an entry may start: the circuit breaker."""

    is_open: bool
    """True while the gate restricts starts."""

    def allows_attempt(self) -> bool:
        """Return whether a message may start now."""

    def record_start(self) -> bool:
        """Record that an allowed message starts. Returns True if it is a trial."""

    def record_ignored(self, is_trial: bool) -> None:
        """Record an end that says nothing about the dependency."""


class BlockedEntries:
    """Entries that may not start yet: they wait behind another entry of their lane, or for a retry.

    Limited by number and by bytes, so that a pod with large entries stops reading sooner."""

    def __init__(self) -> None:
        self._sizes: dict[Entry, int] = {}
        self.size_bytes = 0

    @property
    def is_full(self) -> bool:
        """True if no more entries may be read."""
        return len(self._sizes) >= MAX_BLOCKED or self.size_bytes >= MAX_BLOCKED_BYTES

    def add(self, entry: Entry) -> None:
        """Add an entry, or update its size."""
        self.discard(entry)
        self._sizes[entry] = size = entry.size_bytes()
        self.size_bytes += size

    def discard(self, entry: Entry) -> None:
        """Remove an entry, if present."""
        self.size_bytes -= self._sizes.pop(entry, 0)


class ReadyQueue:
    """Entries that have not started."""

    def __init__(self, ordering_key: str | None = None, blocked: BlockedEntries | None = None) -> None:
        self._ordering_key = ordering_key.encode() if ordering_key else None
        self.ready: deque[Entry] = deque()
        """Entries that may start without further checks, unless there are suspects."""
        self.suspects: deque[Entry] = deque()
        self._active_suspect: Entry | None = None
        """Suspect that has the turn. None if no suspect runs or waits for its retry."""
        self._is_others_turn = False
        self._lanes: dict[bytes, deque[Entry]] = {}
        """Entries that wait behind the entry that has the turn, by ordering key."""
        self._blocked = BlockedEntries() if blocked is None else blocked
        """Shared with the in-flight table. Includes the entries that wait in lanes."""

    def __len__(self) -> int:
        """Return the number of entries that could start if slots were free. Excludes entries that wait in a lane."""
        return len(self.ready) + len(self.suspects)

    def put(self, entry: Entry) -> None:
        """Add a new entry, at the end of its lane if its ordering key has the turn."""
        if self._ordering_key is not None and (key := entry.field_value(self._ordering_key)) is not None:
            entry.lane = key
            if key in self._lanes:
                self._lanes[key].append(entry)
                self._blocked.add(entry)
                return
            self._lanes[key] = deque()
        self.requeue(entry)

    def put_all(self, entries: Collection[Entry]) -> None:
        """Add new entries in order."""
        if self._ordering_key is None and not any(entry.is_suspect for entry in entries):
            self.ready.extend(entries)
        else:
            for entry in entries:
                self.put(entry)

    def requeue(self, entry: Entry) -> None:
        """Add an entry that has the turn in its lane, or no lane."""
        (self.suspects if entry.is_suspect else self.ready).append(entry)

    def pop(self) -> Entry | None:
        """Remove and return the next entry. None if no entry may start."""
        if self.suspects and self._active_suspect is None and not (self._is_others_turn and self.ready):
            self._is_others_turn = True
            self._active_suspect = self.suspects.popleft()
            return self._active_suspect
        self._is_others_turn = False
        return self.ready.popleft() if self.ready else None

    def pop_untried(self) -> Entry | None:
        """Remove and return the next entry that was just read and has not failed yet. None if there is none."""
        entry = next(self._untried(), None)
        if entry is not None:
            self.ready.remove(entry)
        return entry

    def has_untried(self) -> bool:
        """Return whether `pop_untried` would return an entry."""
        return any(self._untried())

    def _untried(self) -> Iterator[Entry]:
        return (entry for entry in self.ready if entry.attempt_counted)

    def pop_if(self, may_start: Callable[[Entry], bool]) -> Entry | None:
        """Remove and return the next entry that is no suspect, if `may_start` allows it. None otherwise."""
        return self.ready.popleft() if self.ready and may_start(self.ready[0]) else None

    def release_turn(self, entry: Entry) -> None:
        """End the turn of a suspect. The entry keeps the turn in its lane."""
        if entry is self._active_suspect:
            self._active_suspect = None

    def complete(self, entry: Entry) -> None:
        """Record that an entry is settled. The next entry of its lane gets the turn."""
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
        """Remove an unstarted entry that another consumer has claimed."""
        for queue in (self.ready, self.suspects):
            if entry in queue:
                queue.remove(entry)
                self.complete(entry)
                return
        if entry.lane is not None and entry in (lane := self._lanes[entry.lane]):
            lane.remove(entry)
            self._blocked.discard(entry)

    def clear(self) -> list[Entry]:
        """Remove and return all unstarted entries."""
        unstarted = [*self.suspects, *self.ready, *(entry for lane in self._lanes.values() for entry in lane)]
        self.suspects.clear()
        self.ready.clear()
        for lane in self._lanes.values():
            lane.clear()
        for entry in unstarted:
            self._blocked.discard(entry)
        return unstarted
