"""Ledger: records what happened to each entry, and finds violations of the engine's promises.

The ledger compares two sources after each command of a pod: the state of the group in the real server, and the handler
calls. An entry of a group is in exactly one state:

- *unread*: the group has not delivered the entry.
- *owned*: the entry is pending, and a consumer owns it.
- *postponed*: the entry is pending, and the pseudo consumer `~postponed` owns it.
- *settled*: the entry is no longer pending, and its outcome is known: a handler returned, or a dead letter exists.
- *gone*: a fault removed the entry, for example by trimming the stream.
- *orphaned*: the entry was delivered, is not pending, and has no outcome.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hiredis import ReplyError

from streamconsumer.processor import Defer, Reject
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from tests.simulation.loop import Process, SimulationLoop
from tests.simulation.server import SimulatedServer

EXCUSED_SECONDS = 10.0
"""After a fault that can silence a live pod, another pod may start its entries for this time."""

MAX_ORPHANED_SECONDS = 20.0
"""An entry may be orphaned for this time after a fault that removed it from the pending list."""


@dataclass
class Run:
    """One call of the handler for one entry."""

    process: Process
    entry_id: str
    number: int
    key: str
    attempt: int
    started_at: float
    ended_at: float | None = None
    outcome: Any = None
    """What the handler returned or raised. Meaningless until `ended_at` is set."""

    @property
    def is_success(self) -> bool:
        """True if the handler returned."""
        return self.ended_at is not None and not isinstance(self.outcome, BaseException)


@dataclass
class EntryRecord:
    """What is known of one entry."""

    entry_id: str
    number: int
    runs: list[Run] = field(default_factory=list)
    state: str = "unread"
    orphaned_since: float | None = None
    foreign: str = ""
    """Name of the fault that took the entry out of the engine's hands. Empty if there was none."""
    settled_at: float | None = None


@dataclass(frozen=True)
class Violation:
    """A broken promise."""

    invariant: str
    """Short name, such as `lost`."""
    text: str


class Ledger:
    """Records of all entries of one simulation."""

    def __init__(self, loop: SimulationLoop, server: SimulatedServer, stream: str, group: str) -> None:
        self._loop, self._server, self._stream, self._group = loop, server, stream, group
        self._dead_letter_stream = group_key(stream, group, "dead-letters")
        self.entries: dict[str, EntryRecord] = {}
        self.violations: list[Violation] = []
        self.excused_starts = 0
        """Number of starts of an entry that another pod was handling, as the liveness rule permits after a fault."""
        self.is_silenced: Callable[[Process], bool] = lambda _process: False
        """Returns True if a fault silences the process, or has silenced it within the last `EXCUSED_SECONDS`."""
        self.on_run: Callable[[Run], object] = lambda _run: None
        """Called when a handler starts or ends."""
        self.on_state: Callable[[EntryRecord, str, str], object] = lambda *_: None
        """Called before a state change with the record, the new state and the command or fault that caused it."""
        self.transitions: Counter[tuple[str, str, str]] = Counter()
        """Number of state changes by previous state, new state, and the command or fault that caused the change."""
        self._attempts: defaultdict[int, int] = defaultdict(int)
        self._dead_lettered: set[str] = set()

    # -- what happens --------------------------------------------------------------------------------------------------

    def on_added(self, entry_id: str, number: int) -> None:
        """Record an entry of the producer."""
        self.entries[entry_id] = EntryRecord(entry_id, number)

    def on_foreign(self, name: str, entry_ids: list[str] | None = None) -> None:
        """Record that a fault changed the group or the stream. Without ids, the fault affects all entries."""
        for entry_id in entry_ids if entry_ids is not None else list(self.entries):
            if (record := self.entries.get(entry_id)) and record.state not in {"settled", "gone"}:
                record.foreign = name

    def settle(self, entry_ids: list[bytes]) -> None:
        """Record that another program acknowledged entries."""
        for entry_id in entry_ids:
            if record := self.entries.get(_text(entry_id)):
                record.state, record.settled_at = "settled", self._loop.time()

    def on_start(self, process: Process, entry_id: str, number: int, key: str) -> Run:
        """Record the start of a handler."""
        self._attempts[number] += 1
        run = Run(process, entry_id, number, key, self._attempts[number], self._loop.time())
        record = self.entries.setdefault(entry_id, EntryRecord(entry_id, number))
        for other in record.runs:
            if other.ended_at is None and not other.process.is_dead:
                self._on_second_start(run, other)
        if record.settled_at is not None and not record.foreign and not self.is_silenced(process):
            self._report("started_after_settlement", f"{process.name} started {entry_id}, which is settled")
        if key:
            self._check_order(run)
        record.runs.append(run)
        self.on_run(run)
        return run

    def on_end(self, run: Run, outcome: Any) -> None:
        """Record the end of a handler. `outcome` is its result or its error."""
        run.ended_at, run.outcome = self._loop.time(), outcome
        self.on_run(run)

    def _on_second_start(self, run: Run, other: Run) -> None:
        if other.process is run.process:
            self._report("twice_in_one_process", f"{run.process.name} started {run.entry_id} while running it")
        elif self.is_silenced(other.process) or self.is_silenced(run.process):
            self.excused_starts += 1
        elif not self.entries[run.entry_id].foreign:
            self._report(
                "started_twice", f"{run.process.name} started {run.entry_id} while {other.process.name} is handling it"
            )

    def _check_order(self, run: Run) -> None:
        for record in self.entries.values():
            for other in record.runs:
                is_live = other.ended_at is None and not other.process.is_dead
                if is_live and other.key == run.key and other.process is run.process and other.number != run.number:
                    self._report(
                        "order", f"{run.process.name} started {run.entry_id} while {other.entry_id} is running"
                    )

    # -- comparison with the server ------------------------------------------------------------------------------------

    def check(self, cause: str) -> None:
        """Compare the records with the server, after the command or fault `cause`."""
        pending_lines, entries, groups, dead_letters = (
            [] if isinstance(reply, ReplyError) or reply is None else reply
            for reply in self._server.inspect_many(
                ("XPENDING", self._stream, self._group, "-", "+", 1000),
                ("XRANGE", self._stream, "-", "+"),
                ("XINFO", "GROUPS", self._stream),
                ("XRANGE", self._dead_letter_stream, "-", "+"),
            )
        )
        pending = {_text(line[0]): _text(line[1]) for line in pending_lines}
        present = {_text(line[0]) for line in entries}
        last_delivered = self._last_delivered(groups)
        self._add_dead_letters(dead_letters)
        now = self._loop.time()
        for record in self.entries.values():
            state = self._state(record, pending, present, last_delivered)
            if state != record.state:
                self.on_state(record, state, cause)
                self.transitions[record.state, state, cause] += 1
                if state == "settled":
                    record.settled_at = now
                record.state = state
            if state != "orphaned":
                record.orphaned_since = None
            elif record.orphaned_since is None:
                record.orphaned_since = now
                if not record.foreign:
                    self._report("lost", f"{record.entry_id} is not pending and has no outcome after {cause}")
            elif now - record.orphaned_since > MAX_ORPHANED_SECONDS and record.foreign != "reported":
                self._report("orphaned", f"{record.entry_id} has no owner since {now - record.orphaned_since:.1f} s")
                record.foreign = "reported"

    def _state(
        self, record: EntryRecord, pending: dict[str, str], present: set[str], last_delivered: tuple[int, int] | None
    ) -> str:
        if owner := pending.get(record.entry_id):
            return "postponed" if owner == POSTPONED_CONSUMER else "owned"
        if record.state == "settled" or self._has_outcome(record):
            return "settled"
        if record.entry_id not in present:
            return "gone"
        if last_delivered is None or _id(record.entry_id) > last_delivered:
            return "unread"
        return "orphaned"

    def _has_outcome(self, record: EntryRecord) -> bool:
        return record.entry_id in self._dead_lettered or any(run.is_success for run in record.runs)

    def finish(self) -> None:
        """Report entries that are not settled at the end, and outcomes that differ from the handler's decision."""
        self.check("end")
        for record in self.entries.values():
            if record.state not in {"settled", "gone"}:
                self._report("stuck", f"{record.entry_id} is {record.state} at the end; runs: {len(record.runs)}")
            if record.entry_id in self._dead_lettered and not record.runs and not record.foreign:
                self._report("dead_letter_without_start", f"{record.entry_id} is dead-lettered but was never started")

    def _add_dead_letters(self, dead_letters: list[Any]) -> None:
        for _, fields in dead_letters:
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            if entry_id := pairs.get(b"streamconsumer.message-id"):
                self._dead_lettered.add(_text(entry_id))

    def _last_delivered(self, groups: list[Any]) -> tuple[int, int] | None:
        for line in groups:
            group = dict(zip(line[::2], line[1::2], strict=True))
            if group[b"name"] == self._group.encode():
                return _id(_text(group[b"last-delivered-id"]))
        return None

    def _report(self, invariant: str, text: str) -> None:
        self.violations.append(Violation(invariant, f"{self._loop.time() - 1_700_000_000:.3f} s: {text}"))


def counts_as_attempt(outcome: Any) -> bool:
    """Return True if a failed attempt counts."""
    return isinstance(outcome, BaseException) and not isinstance(outcome, (Defer, Reject))


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _id(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
