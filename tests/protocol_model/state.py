"""States of the model: immutable tuples of the group, its consumers and its entries.

A state contains what Redis stores (group, pending entries, schedule, snapshot, claimed record, memory of commits), what
each process knows (its in-flight table), and what has really happened (the ledger: `outcome` and `repeated`). The model
compares the ledger with the promises.
"""

from itertools import product
from typing import NamedTuple

# State of the group
PRESENT, MISSING, RESTORING = "present", "missing", "restoring"
"""A restoring group exists, but not all entries that were pending in the lost group are pending again yet."""

# Mode of a process
LIVE, PAUSED, DEAD = "live", "paused", "dead"

# Place of an entry in the in-flight table of a process
FREE = "-"
"""The process does not hold the entry."""
READY = "ready"
"""The entry is queued, or the reply that contains it is on its way. It starts without another look at Redis."""
CHECK = "check"
"""The entry must be verified by the start script before its next attempt: after a claim, a retry or a pause."""
RUNNING, ACKING, POSTPONING, RECORDING = "running", "acking", "postponing", "recording"
"""The handler runs, or the process must repeat XACK, the script that postpones, or the script that records, because the
reply was lost. A record is a dead letter or a commit of effects: the protocol treats both in the same way."""
STARTABLE = (READY, CHECK)
RENEWED = (READY, CHECK, RUNNING, RECORDING)

# Lease renewal of an entry
SENT, ACKED_SINCE, OWES_ACK = "sent", "acked since", "owes ack"
"""A delayed renewal is on its way to Redis; the process has settled the entry since; the renewal may have put the
settled entry back, so that the process must acknowledge it again."""

# Score of an entry in the schedule of postponed entries
DUE, RESTORED, KEPT = "due", "restored", "kept"
"""Postponed; restored with a grace period for its previous owner; taken back and kept until the next snapshot."""

# Entry in the snapshot
AFTER, LISTED, OMITTED, BEYOND = "after", "listed", "omitted", "beyond"
"""After the snapshot's position; in its list of pending entries; neither. While the group is restoring: also after the
position of the created group."""

# Outcome of an entry in the ledger
SETTLED, UNDONE = "settled", "undone"
"""Settled; settled, but a crash or a pause permits another attempt."""


class Cell(NamedTuple):
    """Relation of one consumer to one entry."""

    phase: str = FREE
    renewal: str = ""
    owns: bool = False
    """True if the entry is pending with this consumer."""
    claimed: bool = False
    """True if the claimed record names this consumer."""
    stale: bool = False
    """True if another consumer has claimed the entry while this process was paused, and this process still holds it."""


class Entry(NamedTuple):
    """Entry of the stream, with its relation to each consumer."""

    cells: tuple[Cell, ...]
    in_stream: bool = True
    unread: bool = True
    """True if the position of the group is before the entry."""
    parked: bool = False
    """True if the entry is pending with the pseudo consumer `~postponed`."""
    schedule: str = ""
    recorded: int = 0
    """Number of dead letters and of commits of effects. If it is not 0, the companion set `committed` contains the
    entry."""
    snapshot: str = AFTER
    outcome: str = ""
    repeated: bool = False
    """True if the group was restored from a snapshot that is older than the delivery or the end of the entry. The
    product permits that such an entry runs again, or in two consumers."""


class Bounds(NamedTuple):
    """Size of the model, and number of faults of each kind."""

    consumers: int = 2
    spares: int = 0
    """Number of further consumer names, under which a process can start later."""
    entries: int = 2
    crashes: int = 0
    pauses: int = 0
    losses: int = 0
    """Number of times that the group is destroyed."""
    cuts: int = 0
    """Number of requests or replies that are lost, because a connection is cut."""
    delays: int = 0
    """Number of lease renewals that reach Redis later than commands that were sent after them."""
    deletions: int = 0
    """Number of consumers that another program deletes."""
    trims: int = 0

    @property
    def faults(self) -> dict[str, int]:
        """Number of permitted faults by kind."""
        return {kind: getattr(self, kind) for kind in FAULTS}


def describe(bounds: Bounds) -> str:
    """Return the bounds that are not 0 as a text."""
    return ", ".join(f"{count} {name}" for name, count in bounds._asdict().items() if count)


FAULTS = ("crashes", "pauses", "losses", "cuts", "delays", "deletions", "trims")
LOSSES = FAULTS.index("losses")

Usage = tuple[int, ...]
"""Number of faults of each kind that were needed to reach a state."""


class Budget:
    """Faults that the bounds permit."""

    def __init__(self, bounds: Bounds) -> None:
        self._limits = tuple(bounds.faults.values())
        self.usages: list[Usage] = sorted(product(*(range(limit + 1) for limit in self._limits)), key=sum)
        """All permitted numbers of faults, the fewest first."""

    def after(self, usage: Usage, fault: str) -> Usage | None:
        """Return the usage after a step, whose fault may be empty. None if the bounds do not permit the fault."""
        after = tuple(count + (kind == fault) for kind, count in zip(FAULTS, usage, strict=True))
        return after if all(count <= limit for count, limit in zip(after, self._limits, strict=True)) else None

    def covers(self, usage: Usage) -> list[Usage]:
        """Return the usages with no more faults of any kind, after which the same history has an effect."""
        parts = product(*(range(count + 1) for count in usage))
        return [part for part in parts if self.is_last(part) == self.is_last(usage)]

    def is_last(self, usage: Usage) -> bool:
        """Return True if the group cannot be lost again."""
        return usage[LOSSES] == self._limits[LOSSES]


def without_history(entry: Entry) -> Entry:
    """Return the entry without the facts that have no effect if the group is present and cannot be lost again.

    These facts are the snapshot, an entry that is kept in the schedule until the next snapshot, the claimed record if
    no other process holds the entry, and how a finished entry has ended.
    """
    entry = entry._replace(snapshot=OMITTED, schedule="" if entry.schedule == KEPT else entry.schedule)
    held = [cell for cell in entry.cells if cell.phase != FREE or cell.renewal]
    if entry.unread or any(not cell.claimed for cell in held):
        return entry
    cells = tuple(cell._replace(claimed=False) for cell in entry.cells)
    is_over = (entry.outcome or not entry.in_stream) and not (held or entry.schedule or entry.parked)
    if is_over and not any(cell.owns for cell in cells):
        return Entry(cells, unread=False, snapshot=OMITTED, outcome=SETTLED)
    return entry._replace(cells=cells)
