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

MOST_HELD = 1000
MOST_HELD_BYTES = 32 * 1024 * 1024


class Gate(Protocol):
    """Whether anything may begin: a circuit breaker."""

    is_open: bool
    """Whether it has anything to say."""

    def allows(self) -> bool:
        """Whether a message may begin now."""

    def begun(self) -> bool:
        """One that was allowed begins. Returns whether it is a trial for the others."""

    def undecided(self, trial: bool) -> None:
        """It ended in a way that tells nothing."""


class Held:
    """Entries that are here and may not begin yet: they stand behind another of their ordering key, or wait to be tried
    again. Counted by number and by bytes, so that a pod that holds large ones stops reading sooner."""

    def __init__(self) -> None:
        self._sizes: dict[Entry, int] = {}
        self.size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may be read."""
        return len(self._sizes) >= MOST_HELD or self.size_bytes >= MOST_HELD_BYTES

    def add(self, entry: Entry) -> None:
        """It may not begin yet."""
        self.discard(entry)
        self._sizes[entry] = size = entry.size_bytes()
        self.size_bytes += size

    def discard(self, entry: Entry) -> None:
        """It may, or is not here any more."""
        self.size_bytes -= self._sizes.pop(entry, 0)


class Ready:
    """Entries that have not begun."""

    def __init__(self, ordering_key: str | None = None, held: Held | None = None) -> None:
        self._key = ordering_key.encode() if ordering_key else None
        self.free: deque[Entry] = deque()
        """Whoever may begin without a further look, unless there are suspects."""
        self.suspects: deque[Entry] = deque()
        self._suspect: Entry | None = None
        """The suspect that has its turn."""
        self._others_turn = False
        self._lanes: dict[bytes, deque[Entry]] = {}
        """By key, what stands behind the entry that has its turn."""
        self._held = Held() if held is None else held
        """Among others those who stand in lanes."""

    def __len__(self) -> int:
        """How many could begin if there were slots; not those that stand behind another."""
        return len(self.free) + len(self.suspects)

    def put(self, entry: Entry) -> None:
        """A new one, last in its order."""
        if self._key is not None and (key := entry.value(self._key)) is not None:
            entry.lane = key
            if key in self._lanes:
                self._lanes[key].append(entry)
                self._held.add(entry)
                return
            self._lanes[key] = deque()
        self.again(entry)

    def put_all(self, entries: Collection[Entry]) -> None:
        """New ones, in their order."""
        if self._key is None and not any(entry.suspect for entry in entries):
            self.free.extend(entries)
        else:
            for entry in entries:
                self.put(entry)

    def again(self, entry: Entry) -> None:
        """One that has its turn in its lane, or needs none."""
        (self.suspects if entry.suspect else self.free).append(entry)

    def take(self) -> Entry | None:
        """The next one, if any may begin."""
        if self.suspects and self._suspect is None and not (self._others_turn and self.free):
            self._others_turn = True
            self._suspect = self.suspects.popleft()
            return self._suspect
        self._others_turn = False
        return self.free.popleft() if self.free else None

    def take_untried(self) -> Entry | None:
        """The next one that was just read, and so has not failed yet."""
        entry = next(self._untried(), None)
        if entry is not None:
            self.free.remove(entry)
        return entry

    def has_untried(self) -> bool:
        """Whether there is one."""
        return any(self._untried())

    def _untried(self) -> Iterator[Entry]:
        return (entry for entry in self.free if entry.is_counted)

    def take_if(self, may_begin: Callable[[Entry], bool]) -> Entry | None:
        """The next one beside another, unless it is none that may; no suspect."""
        return self.free.popleft() if self.free and may_begin(self.free[0]) else None

    def rest(self, entry: Entry) -> None:
        """It runs no more, and keeps its turn in its lane."""
        if entry is self._suspect:
            self._suspect = None

    def done(self, entry: Entry) -> None:
        """It is done for good: whoever stands behind it has the turn."""
        self.rest(entry)
        if entry.lane is None:
            return
        lane = self._lanes[entry.lane]
        if lane:
            self._held.discard(lane[0])
            self.again(lane.popleft())
        else:
            del self._lanes[entry.lane]

    def remove(self, entry: Entry) -> None:
        """It is another consumer's now, and was not begun here."""
        for queue in (self.free, self.suspects):
            if entry in queue:
                queue.remove(entry)
                self.done(entry)
                return
        if entry.lane is not None and entry in (lane := self._lanes[entry.lane]):
            lane.remove(entry)
            self._held.discard(entry)

    def clear(self) -> list[Entry]:
        """Everything that has not begun, for a peer."""
        left = [*self.suspects, *self.free, *(entry for lane in self._lanes.values() for entry in lane)]
        self.suspects.clear()
        self.free.clear()
        for lane in self._lanes.values():
            lane.clear()
        for entry in left:
            self._held.discard(entry)
        return left
