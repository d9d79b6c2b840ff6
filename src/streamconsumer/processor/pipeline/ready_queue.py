"""Which entry may begin next. Pure: no clock, no Redis.

Entries begin in the order in which they came, with two exceptions. With an ordering key, entries of one key stand in a
lane behind the one that has its turn, until that one is done for good. And suspects, entries whose consumer died more
than once while they were begun, begin one at a time, in turns with the others: whichever kills this process too then
takes no other suspect with it, and one that only fails does not keep the rest from being tried.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from streamconsumer.processor.message import Entry

MAX_BLOCKED = 1000
MAX_BLOCKED_BYTES = 32 * 1024 * 1024


class AdmissionGate(Protocol):
    """Whether anything may begin: a circuit breaker."""

    is_open: bool
    """Whether it has anything to say."""

    def allows_attempt(self) -> bool:
        """Whether a message may begin now."""

    def record_start(self) -> bool:
        """One that was allowed begins. Returns whether it is a trial for the others."""

    def record_ignored(self, is_trial: bool) -> None:
        """It ended in a way that tells nothing."""


class BlockedEntries:
    """Entries that are here and may not begin yet: they stand behind another of their ordering key, or wait to be tried
    again. Counted by number and by bytes, so that a pod that holds large ones stops reading sooner."""

    def __init__(self) -> None:
        self._sizes: dict[Entry, int] = {}
        self.size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may be read."""
        return len(self._sizes) >= MAX_BLOCKED or self.size_bytes >= MAX_BLOCKED_BYTES

    def add(self, entry: Entry) -> None:
        """It may not begin yet."""
        self.discard(entry)
        self._sizes[entry] = size = entry.size_bytes()
        self.size_bytes += size

    def discard(self, entry: Entry) -> None:
        """It may, or is not here any more."""
        self.size_bytes -= self._sizes.pop(entry, 0)


class ReadyQueue:
    """Entries that have not begun."""

    def __init__(self, ordering_key: str | None = None, blocked: BlockedEntries | None = None) -> None:
        self._ordering_key = ordering_key.encode() if ordering_key else None
        self.ready: deque[Entry] = deque()
        """Whoever may begin without a further look, unless there are suspects."""
        self.suspects: deque[Entry] = deque()
        self._active_suspect: Entry | None = None
        """The suspect that has its turn."""
        self._is_others_turn = False
        self._lanes: dict[bytes, deque[Entry]] = {}
        """By key, what stands behind the entry that has its turn."""
        self._blocked = BlockedEntries() if blocked is None else blocked
        """Among others those who stand in lanes."""

    def __len__(self) -> int:
        """How many could begin if there were slots; not those that stand behind another."""
        return len(self.ready) + len(self.suspects)

    def put(self, entry: Entry) -> None:
        """A new one, last in its order."""
        if self._ordering_key is not None and (key := entry.field_value(self._ordering_key)) is not None:
            entry.lane = key
            if key in self._lanes:
                self._lanes[key].append(entry)
                self._blocked.add(entry)
                return
            self._lanes[key] = deque()
        self.requeue(entry)

    def put_all(self, entries: Collection[Entry]) -> None:
        """New ones, in their order."""
        if self._ordering_key is None and not any(entry.is_suspect for entry in entries):
            self.ready.extend(entries)
        else:
            for entry in entries:
                self.put(entry)

    def requeue(self, entry: Entry) -> None:
        """One that has its turn in its lane, or needs none."""
        (self.suspects if entry.is_suspect else self.ready).append(entry)

    def pop(self) -> Entry | None:
        """The next one, if any may begin."""
        if self.suspects and self._active_suspect is None and not (self._is_others_turn and self.ready):
            self._is_others_turn = True
            self._active_suspect = self.suspects.popleft()
            return self._active_suspect
        self._is_others_turn = False
        return self.ready.popleft() if self.ready else None

    def pop_untried(self) -> Entry | None:
        """The next one that was just read, and so has not failed yet."""
        entry = next(self._untried(), None)
        if entry is not None:
            self.ready.remove(entry)
        return entry

    def has_untried(self) -> bool:
        """Whether there is one."""
        return any(self._untried())

    def _untried(self) -> Iterator[Entry]:
        return (entry for entry in self.ready if entry.attempt_counted)

    def pop_if(self, may_begin: Callable[[Entry], bool]) -> Entry | None:
        """The next one beside another, unless it is none that may; no suspect."""
        return self.ready.popleft() if self.ready and may_begin(self.ready[0]) else None

    def release_turn(self, entry: Entry) -> None:
        """It runs no more, and keeps its turn in its lane."""
        if entry is self._active_suspect:
            self._active_suspect = None

    def complete(self, entry: Entry) -> None:
        """It is done for good: whoever stands behind it has the turn."""
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
        """It is another consumer's now, and was not begun here."""
        for queue in (self.ready, self.suspects):
            if entry in queue:
                queue.remove(entry)
                self.complete(entry)
                return
        if entry.lane is not None and entry in (lane := self._lanes[entry.lane]):
            lane.remove(entry)
            self._blocked.discard(entry)

    def clear(self) -> list[Entry]:
        """Everything that has not begun, for a peer."""
        left = [*self.suspects, *self.ready, *(entry for lane in self._lanes.values() for entry in lane)]
        self.suspects.clear()
        self.ready.clear()
        for lane in self._lanes.values():
            lane.clear()
        for entry in left:
            self._blocked.discard(entry)
        return left
