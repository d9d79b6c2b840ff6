"""Capacity of the in-flight table: the number of entries of each kind that the processor may read or claim.

New entries, due entries and entries of dead consumers each have their own room in the ready queue. Despite a backlog of
one kind, the processor can therefore read or claim entries of the other kinds. A slot that becomes free can be reserved
for an entry that has not been claimed yet. The functions in this module have no side effects.
"""

from collections.abc import Collection
from dataclasses import dataclass

from streamconsumer.processor.message import Entry

MAX_START_INTERVAL_SECONDS = 1.0
"""If no entry has started for this time, the slots count as occupied for a long time. A new entry must then not wait
for a slot."""

MAX_TRIAL_CANDIDATES, MAX_TRIAL_BYTES = 100, 32 * 1024 * 1024
"""While the circuit breaker is open, the processor reads entries for trials only if the in-flight table contains fewer
entries than MAX_TRIAL_CANDIDATES and fewer bytes than MAX_TRIAL_BYTES."""

MAX_SUSPECTS = 100
"""Number of waiting suspects at which the processor claims no further entries of dead consumers."""


@dataclass(slots=True)
class Load:
    """Number of entries in the in-flight table, and the limits of the processor."""

    new: int
    due: int
    claimed: int
    suspects: int
    """Numbers of entries of each kind that wait for a slot."""

    is_suspect_next: bool
    """True if a suspect starts as soon as no other entry waits. The processor then reads no entries, so that the other
    entries are soon finished."""

    running: int
    """Number of slots that are in use."""

    concurrency: int
    prefetch_limit: int
    """Number of new entries that may wait while the processor reads. 0 if handlers are slow."""

    @property
    def has_free_slot(self) -> bool:
        """True if a slot is free and no entry waits for it."""
        is_empty = not (self.new or self.due or self.claimed or self.is_suspect_next)
        return is_empty and self.running < self.concurrency


def read_count(load: Load, batch_count: int, *, has_due: bool = False) -> int:
    """Return the number of new entries that the next read may return.

    `has_due` is True if two conditions hold: due entries can be claimed, and slots become free regularly. In this case,
    a read may return one new entry although all slots are busy, so that the entry gets a slot that becomes free.
    Otherwise, due entries would take every slot that becomes free."""
    if load.is_suspect_next:
        return 0
    if load.has_free_slot or load.new <= load.prefetch_limit > 0:
        return batch_count
    return 1 if has_due and not load.new else 0


def due_count(load: Load, batch_count: int) -> int:
    """Return the number of due entries that the processor may claim."""
    return 0 if load.is_suspect_next else _claim_count(load, load.due, batch_count, ahead=load.claimed)


def dead_count(load: Load, batch_count: int) -> int:
    """Return the number of entries of dead consumers that the processor may claim."""
    return 0 if load.suspects >= MAX_SUSPECTS else _claim_count(load, load.claimed, batch_count)


def _claim_count(load: Load, waiting: int, batch_count: int, ahead: int = 0) -> int:
    """Return the number of entries of one kind that the processor may claim. `waiting` is the number of entries of this
    kind that wait for a slot. `ahead` is the number of waiting entries of another kind that start first.

    The number is 0 if handlers are slow and all slots are busy, because other pods may start the entries sooner."""
    if load.has_free_slot or load.prefetch_limit:
        return max(0, batch_count - waiting)
    return max(0, min(batch_count, load.concurrency - load.running - waiting - ahead))


def is_slot_reserved(load: Load, claimable: Collection[str], *, is_due_turn: bool) -> bool:
    """Return whether a free slot is reserved for an entry that can be claimed. A slot is reserved for an entry of a
    dead consumer at any time, and for a due entry only if it is the turn of due entries. `claimable` contains the kinds
    of claimable entries: `dead`, `due` or both."""
    if load.claimed:
        return False
    is_due_next = not load.due and (is_due_turn or not load.new)
    return bool(
        ("dead" in claimable and dead_count(load, 1)) or ("due" in claimable and is_due_next and due_count(load, 1))
    )


def has_room_for_trials(entries: Collection[Entry]) -> bool:
    """Return True if the processor may read entries for trials of the open circuit breaker."""
    return len(entries) < MAX_TRIAL_CANDIDATES and sum(entry.size_bytes() for entry in entries) < MAX_TRIAL_BYTES
