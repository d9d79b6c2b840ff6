"""Records of the ledger: entries, handler runs, losses of an entry, and violations. The result of a simulation."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.loop import Process


@dataclass(frozen=True)
class Violation:
    """A broken promise."""

    invariant: str
    """Short name, such as `lost`."""
    text: str

    @property
    def at(self) -> float:
        """Time of the violation in seconds, with which the text begins. Infinite if the text contains no time."""
        match = re.match(r"([\d.]+) s: ", self.text)
        return float(match[1]) if match else float("inf")


@dataclass(frozen=True)
class Result:
    """Outcome of a simulation."""

    violations: tuple[Violation, ...]
    trace_hash: str
    steps: int
    virtual_seconds: float
    messages: int
    excuses: Counter[str]
    """Number of starts of an entry that a fault or the liveness rule permits, by excuse."""

    @property
    def is_ok(self) -> bool:
        """True if no promise was violated."""
        return not self.violations


@dataclass(frozen=True)
class Loss:
    """The moment at which a process lost an entry that it was handling."""

    at: float
    cause: str
    """Command or fault that moved or removed the entry."""
    excuse: str
    """Reason why the engine may do this. Empty if it must not."""


@dataclass
class Run:
    """Call of the handler for one entry."""

    process: Process
    consumer: str
    """Name of the consumer. Two processes may have the same name."""
    entry_id: str
    number: int
    key: str
    attempt: int = 0
    started_at: float = 0.0
    ended_at: float | None = None
    outcome: Any = None
    """Result or error of the handler. Meaningless until `ended_at` is set."""
    loss: Loss | None = None
    """Set if the process lost the entry during the run."""
    is_thread: bool = False
    """True if a thread runs the handler, which nothing can cancel."""
    restarts: int = 0
    """Number of times that the processor was started again in the process before this run."""
    is_after_stop: bool = False
    """True if the processor of the previous run had stopped, or was stopping, when this run started."""
    was_postponed: bool = False
    """True if the entry was postponed after this run."""
    was_settled: bool = False
    """True if the entry was settled after this run, for example by a dead letter. A later run is then no retry."""

    @property
    def has_stopped(self) -> bool:
        """True if the processor of the run has stopped or is stopping."""
        return self.process.is_dead or self.process.is_stopping or self.restarts < self.process.restarts

    @property
    def is_success(self) -> bool:
        """True if the handler returned."""
        return self.ended_at is not None and not isinstance(self.outcome, BaseException)

    @property
    def is_live(self) -> bool:
        """True if the handler is running in a process that exists."""
        return self.ended_at is None and not self.process.is_dead


@dataclass
class EntryRecord:
    """Known facts about an entry. An entry of a new stream with the same id has another record."""

    entry_id: str
    number: int
    key: str = ""
    runs: list[Run] = field(default_factory=list)
    state: str = "unread"
    owner: str = ""
    """Consumer that owns the entry. Empty if the entry is not pending."""
    since: float = 0.0
    """Time of the last change of `state` or `owner`."""
    reader: Process | None = None
    """Process that has read the entry. If it dies before it starts the entry, its read counts as an attempt. None if
    another program has read the entry, or if the process could not release the unstarted entry."""
    orphaned_since: float | None = None
    foreign: str = ""
    """Last fault that changed the entry, the group or the stream. Empty if there was none."""
    foreign_at: float = 0.0
    settled_at: float | None = None
    claimed_before: str = ""
    """Consumer that had claimed the entry when the process of its previous owner acknowledged it. Empty if no consumer
    had."""
    previous: "EntryRecord | None" = None
    """Entry that had the same id before, in another life of the stream. None if there is none."""
    is_unsaved: bool = False
    """True if the entry was delivered after the last snapshot of a group that was lost, until it is settled behind the
    position of the restored group. Before, the restored group can deliver the entry again."""
    has_returned: bool = False
    """True if the entry came back with its stream, which was renamed for a while."""
    is_mistaken: bool = False
    """True if the group was restored at its position in another stream, see "Limits of the tests"."""
    is_given_up: bool = False
    """True if the entry is gone although the stream may contain it: the group has skipped the entry, or no program
    knows that it was not settled."""
    holder: Process | None = None
    """The only process that can make the entry pending again, because its consumer was deleted. None if the entry has
    not been pending with a deleted consumer."""
    stranded_at: float = 0.0
    """Last check at which a consumer without a process owned the entry."""
    blocked_at: float = 0.0
    """Last check at which the entry waited in its pod for another entry: with its ordering key, or another suspect."""
    counted_by: set[Process] = field(default_factory=set)
    """Processes that have counted an attempt, and neither called the handler nor given up the entry since then. If such
    a process dies, the message has lost an attempt."""
    has_lost_attempt: bool = False
    """True if such a process stopped listening while a fault was active, so that it could not release the entry."""
    _reported: set[str] = field(default_factory=set)

    @property
    def is_open(self) -> bool:
        """True if the entry still needs an outcome."""
        return self.state not in {"settled", "gone"}

    @property
    def is_removed(self) -> bool:
        """True if the stream did not contain the entry at the last check. A fault can undo the removal."""
        return self.state == "gone" and not self.is_given_up

    def has_previous_outcome(self, process: Process | None, aware: set[Process]) -> bool:
        """Return True if the process can settle the entry with the outcome of `previous`. `aware` contains the
        processes that have found out that the stream was deleted and created again."""
        previous = self.previous
        return previous is not None and (
            (process not in aware and any(run.process is process for run in previous.runs))
            or (not aware and previous.settled_at is not None)
        )

    def give_up(self) -> None:
        """Record that no program will settle the entry, unless it becomes pending again."""
        self.state, self.is_given_up = "gone", True

    @property
    def lost_attempts(self) -> int:
        """Number of attempts that were counted immediately before their processes ended."""
        return self.has_lost_attempt + sum(process.is_dead for process in self.counted_by)

    def on_stopped(self, process: Process, consumer: str) -> None:
        """Record that a process has stopped listening during a fault. If it still owns the entry, nothing
        remembers that it has not started the entry."""
        if (self.state, self.owner) != ("owned", consumer):
            return
        self.has_lost_attempt |= process in self.counted_by
        self.counted_by.discard(process)
        if self.reader is process and not any(run.process is process for run in self.runs):
            self.reader = None

    def is_new(self, invariant: str) -> bool:
        """Return True at the first call with this invariant, so that it is reported once."""
        is_new = invariant not in self._reported
        self._reported.add(invariant)
        return is_new
