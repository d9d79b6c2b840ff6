"""Ledger: records what happened to each entry, and finds violations of the engine's promises.

The ledger compares two sources after each command that may change the group: the state of the group in the real server,
and the handler calls. An entry of a group is in exactly one state:

- *unread*: the group has not delivered the entry.
- *owned*: the entry is pending, and a consumer owns it.
- *postponed*: the entry is pending, and the pseudo consumer `~postponed` owns it.
- *settled*: the entry is no longer pending, and its outcome is known: a handler returned and its effects exist, or a
  dead letter exists, or another program acknowledged the entry.
- *gone*: a fault removed the entry, for example by trimming the stream.
- *orphaned*: the entry was delivered, is not pending, and has no outcome.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from hiredis import ReplyError

from streamconsumer.processor import Effects
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import parse_id
from tests.simulation.activity import Activity
from tests.simulation.handlers import EFFECT_KEY
from tests.simulation.loop import START_MICROSECONDS, Process, SimulationLoop
from tests.simulation.records import EntryRecord, Loss, Run, Violation
from tests.simulation.server import SimulatedServer, head_commands, to_dict

MIN_IDLE_SECONDS = 30.0
"""A live consumer keeps its entries if the server has heard from it within this time."""

DISCONNECTED_SECONDS = 0.95
"""A consumer without connections keeps its entries if the server has heard from it within this time."""

DETECTION_SECONDS = 2.0
"""Time within which a consumer detects that it has lost an entry."""

FOREIGN_SECONDS = 20.0
"""Time after the end of a fault within which the engine must repair what the fault changed."""

SNAPSHOT_SECONDS = 3.0
"""Maximum age of the group's snapshot. What was settled earlier must not run again after the loss of the group."""


class Ledger:
    """Records of all entries of one simulation."""

    def __init__(
        self, loop: SimulationLoop, server: SimulatedServer, activity: Activity, stream: str, group: str
    ) -> None:
        self._loop, self._server, self._activity = loop, server, activity
        self._stream, self._group = stream, group
        self._dead_letter_stream = group_key(stream, group, "dead-letters")
        groups, last_entry = head_commands(stream)
        self._state_commands = (
            ("XPENDING", stream, group, "-", "+", 100_000),
            groups,
            ("XLEN", stream),
            ("XLEN", self._dead_letter_stream),
        )
        server.observed = (*self._state_commands, last_entry)
        self.records: dict[int, EntryRecord] = {}
        """All entries by the number of their message."""
        self._by_id: dict[str, EntryRecord] = {}
        """Entries of the present stream by id."""
        self.violations: list[Violation] = []
        self.excuses: Counter[str] = Counter()
        """Number of starts that the liveness rule or a fault permits, by excuse."""
        self.transitions: Counter[tuple[str, str, str]] = Counter()
        """Number of state changes by previous state, new state, and the command or fault that caused the change."""
        self.dead_letters: defaultdict[int, list[str]] = defaultdict(list)
        """Reasons of the dead letters by the number of their message."""
        self.calm_since: Callable[[], float | None] = lambda: 0.0
        """Returns the time since when no fault is active. None if a fault is active."""
        self.on_run: Callable[[Run], object] = lambda _run: None
        """Called when a handler starts or ends."""
        self.on_state: Callable[[EntryRecord, str, str], object] = lambda *_: None
        """Called before a state change with the record, the new state and the command or fault that caused it."""
        self.is_ordered = False
        """True if entries with the same key must run in order."""
        self._attempts: defaultdict[int, int] = defaultdict(int)
        self._live_runs: list[Run] = []
        """Runs that had not ended at the last start of a handler."""
        self._rerun_windows: list[tuple[float, float]] = []
        self._present: set[str] = set()
        self._reported_texts: set[str] = set()
        self._lengths = (-1, -1)
        self._has_group = False
        self._aware: set[Process] = set()
        """Processes that have found out that the stream was deleted and created again."""

    @property
    def now(self) -> float:
        """Seconds since the start of the simulation."""
        return (self._loop.microseconds - START_MICROSECONDS) / 1e6

    # -- what happens --------------------------------------------------------------------------------------------------

    def on_added(self, entry_id: str, number: int, key: str = "") -> None:
        """Record an entry of the producer."""
        if (previous := self._by_id.get(entry_id)) and previous.is_open:
            previous.state = "gone"
        record = EntryRecord(entry_id, number, key, since=self.now, previous=previous)
        self.records[number] = self._by_id[entry_id] = record
        self._lengths = (-1, -1)

    def on_foreign(self, name: str, entry_ids: Iterable[str] | None = None, *, is_skip: bool = False) -> None:
        """Record that a fault changed the group or the stream. Without ids, the fault affects all entries.

        If `is_skip` is True, the fault moves the group behind the entries that it has not delivered.
        """
        for entry_id in list(self._by_id) if entry_ids is None else entry_ids:
            record = self._by_id.get(entry_id)
            if record and (record.is_open or any(run.is_live for run in record.runs)):
                record.foreign, record.foreign_at = name, self.now
                if is_skip and record.state == "unread":
                    record.give_up()
        self._lengths = (-1, -1)

    def on_consumer_deleted(self, holders: dict[str, Process | None]) -> None:
        """Record the deletion of a consumer. For each of its entries, `holders` contains the process that has the entry
        in flight. Without such a process, or after its end, no program knows that the entry was not settled."""
        for entry_id, holder in holders.items():
            if record := self._by_id.get(entry_id):
                record.holder = holder
                if holder is None:
                    record.give_up()

    def on_recreated(self) -> None:
        """Record that the stream was deleted and created again."""
        self._aware.clear()

    def on_replaced(self) -> None:
        """Record that a fault has replaced the stream, so that entries of a previous stream can be back. A process that
        handles the entry that had the same id meanwhile can settle the entry that is back."""
        for name, fields in self._inspect("XRANGE", self._stream, "-", "+"):
            entry_id, record = _text(name), self.records.get(int(to_dict(fields)[b"n"]))
            present = self._by_id.get(entry_id)
            if record is not None and record is not present:
                self._by_id[entry_id] = record
                if present is not None:
                    record.previous = present
                    self._aware.clear()
                    present.state = "gone" if present.is_open else present.state
        self._lengths = (-1, -1)

    def on_restored(self, process: Process, position: str, *, is_new_stream: bool, has_snapshot: bool) -> None:
        """Record that a process has created the missing group. If the group starts at its position in another stream,
        the stream has reached this position, and entries before the position count as delivered. `has_snapshot` is
        True if a snapshot of this stream exists."""
        if is_new_stream:
            self._aware.add(process)
        elif not self._has_group:
            for record in self._by_id.values():
                is_from_other = record.previous is not None or (record.has_returned and not has_snapshot)
                record.is_mistaken |= is_from_other and parse_id(record.entry_id) <= parse_id(position)

    def on_group_lost(self, saved_at: float) -> None:
        """Record that the group is about to be lost. The time of its last snapshot is `saved_at` or later."""
        for record in self._by_id.values():
            record.is_unsaved |= record.state in {"owned", "postponed"} and record.since >= saved_at

    def allow_reruns(self, begin: float, end: float) -> None:
        """Record that a fault undoes settlements of a period, so that these entries may run again."""
        self._rerun_windows.append((begin, end))

    def settle(self, entry_ids: Iterable[bytes]) -> None:
        """Record that another program acknowledged entries."""
        for entry_id in entry_ids:
            if record := self._by_id.get(_text(entry_id)):
                record.state, record.settled_at, record.owner = "settled", self.now, ""
                record.foreign, record.foreign_at = "foreign_ack", self.now

    def on_counted(self, process: Process, entry_id: str) -> None:
        """Record that a process has counted an attempt whose handler it is about to call."""
        if record := self._by_id.get(entry_id):
            record.counted_by.add(process)

    def on_start(self, run: Run) -> Run:
        """Record the start of a handler."""
        self._attempts[run.number] += 1
        run.attempt, run.started_at, run.restarts = self._attempts[run.number], self.now, run.process.restarts
        if run.process.is_exiting:
            self.report("started_while_exiting", f"{run.process.name} started {run.entry_id} after KeyboardInterrupt")
        record = self.records.setdefault(run.number, EntryRecord(run.entry_id, run.number, run.key))
        record.counted_by.discard(run.process)
        if record.state == "gone":
            run.loss = Loss(self.now, record.foreign, "gone")
        run.is_after_stop = bool(record.runs) and record.runs[-1].has_stopped
        for other in record.runs:
            if other.is_live:
                self._on_second_start(record, run, other)
        if record.settled_at is not None and self._by_id.get(run.entry_id) is record:
            self._on_start_after_settlement(record, run)
        if self.is_ordered and run.key:
            self._check_order(run)
        record.runs.append(run)
        self.on_run(run)
        return run

    def on_end(self, run: Run, outcome: Any) -> None:
        """Record the end of a handler. `outcome` is its result or its error."""
        if not run.process.is_dead:
            run.ended_at, run.outcome = self.now, outcome
            self.on_run(run)

    def _on_second_start(self, record: EntryRecord, run: Run, other: Run) -> None:
        text = f"{run.process.name} started {run.entry_id} while {other.process.name} is handling it"
        if other.process is run.process:
            self.report("twice_in_one_process", f"{run.process.name} started {run.entry_id} while running it")
        elif other.loss is not None and other.loss.excuse:
            self.excuses[other.loss.excuse] += 1
        elif record.owner != run.consumer and self._cannot_know(run.process, record.since):
            self.excuses["stale"] += 1
        elif other.process.is_stopping or self._is_foreign(record):
            self.excuses["stopping" if other.process.is_stopping else "foreign"] += 1
        else:
            self.report("started_twice", text)

    def _on_start_after_settlement(self, record: EntryRecord, run: Run) -> None:
        settled_at = record.settled_at or 0.0
        if self._is_foreign(record) or self.is_undone(settled_at):
            self.excuses["settlement undone"] += 1
        elif self._cannot_know(run.process, settled_at):
            self.excuses["stale"] += 1
        elif record.claimed_before == run.consumer:
            self.excuses["acknowledged by its previous owner"] += 1
        else:
            text = f"{run.process.name} started {run.entry_id}, settled {self.now - settled_at:.1f} s ago"
            self.report("started_after_settlement", text)

    def _cannot_know(self, process: Process, changed_at: float) -> bool:
        """Return True if the process cannot know a change yet. It must know how long a fault has stopped it."""
        if self.now - changed_at < DETECTION_SECONDS:
            return True
        changed_at += START_MICROSECONDS / 1e6
        if self._activity.was_held(process, changed_at):
            return False
        received_at = self._activity.first_received_after(process, changed_at)
        return received_at is None or self._loop.time() - received_at < DETECTION_SECONDS

    def is_undone(self, settled_at: float) -> bool:
        """Return True if a fault has undone what was settled at this time."""
        return any(begin <= settled_at <= end for begin, end in self._rerun_windows)

    def _is_foreign(self, record: EntryRecord) -> bool:
        calm_since = self.calm_since() or self.now
        is_recent = bool(record.foreign) and self.now - max(record.foreign_at, calm_since) < FOREIGN_SECONDS
        return is_recent or record.is_unsaved

    def _check_order(self, run: Run) -> None:
        self._live_runs = [other for other in self._live_runs if other.is_live]
        for other in self._live_runs:
            is_same_lane = (other.key, other.process) == (run.key, run.process) and other.number != run.number
            if is_same_lane and not other.loss and not other.is_thread:
                self.report("order", f"{run.process.name} started {run.entry_id} while {other.entry_id} is running")
        self._live_runs.append(run)

    # -- comparison with the server ------------------------------------------------------------------------------------

    def check(self, cause: str, process: Process | None = None) -> None:
        """Compare the records with the server, after a command of the process, or after the fault `cause`."""
        pending, last_delivered = self._read_group()
        self._has_group = last_delivered is not None
        records = {id(each): each for each in self._by_id.values() if each.is_open or each.is_removed}
        records.update((id(each), each) for name in pending if (each := self._by_id.get(name)) is not None)
        for record in records.values():
            owner = pending.get(record.entry_id, "")
            state = self._state(record, owner, last_delivered)
            if state == "orphaned" and self._is_permitted_loss(record, process):
                state, record.is_given_up = "gone", True
            if (state, owner) != (record.state, record.owner):
                self._on_change(record, state, owner, cause, process)
            if state == "settled" and last_delivered and parse_id(record.entry_id) <= last_delivered:
                record.is_unsaved = False  # the group does not deliver the entry again
            self._check_orphaned(record, cause)

    def _on_change(self, record: EntryRecord, state: str, owner: str, cause: str, process: Process | None) -> None:
        if state != record.state:
            self.on_state(record, state, cause)
            self.transitions[record.state, state, cause] += 1
        is_undone = record.settled_at is not None and self.is_undone(record.settled_at)
        for run in record.runs:
            is_unsettled = bool(owner) and run.is_success and not run.process.is_dead and record.owner == run.consumer
            if (run.is_live or (is_unsettled and not is_undone)) and run.loss is None and owner != run.consumer:
                is_acknowledged = state == "settled" and any(other.is_success for other in record.runs)
                excuse = "acknowledged" if is_acknowledged else self.excuse(record, run, process)
                self._on_loss(record, run, Loss(self.now, cause, excuse), process)
        if state == "settled":
            previous = (run for run in record.runs if run.process is process and run.is_success)
            is_by_previous_owner = cause == "XACK" and any(run.consumer != record.owner for run in previous)
            record.settled_at, record.claimed_before = self.now, record.owner if is_by_previous_owner else ""
        if state == "gone" and not (record.foreign or record.previous):
            self.report("vanished", f"{record.entry_id} is no longer in the stream after {cause}")
        if record.foreign and state == "owned" and not self._is_foreign(record):
            record.foreign = ""
        record.has_returned |= record.is_removed and record.foreign == "stream_renamed"
        if record.state == "unread":
            record.reader = process
        elif process is not None and state != "owned":
            record.counted_by.discard(process)
        record.is_given_up &= not owner
        if record.runs:
            record.runs[-1].was_postponed |= state == "postponed"
            record.runs[-1].was_settled |= state == "settled"
        record.state, record.owner, record.since = state, owner, self.now

    def _on_loss(self, record: EntryRecord, run: Run, loss: Loss, process: Process | None) -> None:
        run.loss = loss
        if not loss.excuse:
            silent = self._loop.time() - self._activity.heard_at(run.process)
            invariant = "claimed_from_live" if silent < 1.9 else "claimed_from_silent"
            name = process.name if process else "another program"
            text = f"{name} took {record.entry_id} from {run.process.name}, which is connected and handles it"
            self.report(invariant, f"{text}; the server heard of it {silent:.1f} s ago")

    def excuse(self, record: EntryRecord, run: Run, process: Process | None) -> str:
        """Return why a process may take an entry from the process that handles it. Empty if it must not."""
        heard_at = self._activity.heard_at(run.process)
        if process is run.process:
            return "released"
        if process is None or self._is_foreign(record):
            return "foreign"
        if record.is_given_up and record.has_previous_outcome(process, self._aware):
            return "previous outcome"
        if run.has_stopped:
            return "stopping"
        silent = self._loop.time() - heard_at
        if not self._activity.is_connected(run.process) and silent >= DISCONNECTED_SECONDS:
            return "disconnected"
        return "silent" if silent >= MIN_IDLE_SECONDS else ""

    def _check_orphaned(self, record: EntryRecord, cause: str) -> None:
        if record.state != "orphaned":
            record.orphaned_since = None
            return
        calm_since = self.calm_since()
        if record.orphaned_since is None:
            record.orphaned_since = self.now
            if not record.foreign and record.is_new("lost"):
                self.report("lost", f"{record.entry_id} is not pending and has no outcome after {cause}")
            return
        is_overdue = calm_since is not None and self.now - max(record.orphaned_since, calm_since) > FOREIGN_SECONDS
        if is_overdue and record.foreign and record.is_new("orphaned"):
            self.report("orphaned", f"{record.entry_id} has no owner since {record.foreign}")

    def _state(self, record: EntryRecord, owner: str, last_delivered: tuple[int, int] | None) -> str:
        if owner:
            return "postponed" if owner == POSTPONED_CONSUMER else "owned"
        if record.state == "settled" or self._has_outcome(record):
            return "settled"
        if record.entry_id not in self._present or record.is_given_up:
            return "gone"
        if last_delivered is None or parse_id(record.entry_id) > last_delivered:
            return "unread"
        return "orphaned"

    def _is_permitted_loss(self, record: EntryRecord, process: Process | None) -> bool:
        """Return True for an orphaned entry that the engine cannot know, see "Limits of the tests" in the docs.

        An unaware process can settle an entry of a new stream with the outcome of its previous entry with this id. If
        no process is aware, the companion keys still contain the outcomes of the previous stream."""
        is_unknown = record.is_mistaken or (record.holder is not None and record.holder.is_dead)
        return is_unknown or record.has_previous_outcome(process, self._aware)

    def _has_outcome(self, record: EntryRecord) -> bool:
        return record.number in self.dead_letters or any(
            run.is_success and (not isinstance(run.outcome, Effects) or self.effect_count(record.number))
            for run in record.runs
        )

    def effect_count(self, number: int) -> int:
        """Return how many times the effects of a message were applied."""
        return int(self._server.inspect("GET", f"{EFFECT_KEY}:{number}") or 0)

    def _read_group(self) -> tuple[dict[str, str], tuple[int, int] | None]:
        """Return the owners of the pending entries, and the last-delivered id. None if there is no group."""
        stream, group = self._stream, self._group
        raw_pending, groups, length, dead_letters = self._server.inspect_many(*self._state_commands)
        if self._lengths != (length, dead_letters):
            self._present = {_text(line[0]) for line in self._inspect("XRANGE", stream, "-", "+")}
            self._read_dead_letters()
            self._lengths = (length, dead_letters)
        lines = () if isinstance(raw_pending, ReplyError) else raw_pending
        pending = {_text(line[0]): _text(line[1]) for line in lines}
        for line in () if isinstance(groups, ReplyError) else groups:
            fields = to_dict(line)
            if fields[b"name"] == group.encode():
                return pending, parse_id(_text(fields[b"last-delivered-id"]))
        return pending, None

    def _read_dead_letters(self) -> None:
        """Read the dead letters. A dead letter that the server has lost later still counts."""
        found: defaultdict[int, list[str]] = defaultdict(list)
        for _, fields in self._inspect("XRANGE", self._dead_letter_stream, "-", "+"):
            pairs = to_dict(fields)
            reason, number = _text(pairs.get(b"streamconsumer.reason", b"")), int(pairs[b"n"])
            if reason == "Unreadable":  # Such a dead letter contains the sizes of the values.
                number = self._by_id[_text(pairs[b"streamconsumer.message-id"])].number
            found[number].append(reason)
        for number, reasons in found.items():
            lost = (each for each in self.dead_letters[number] if each not in reasons)
            self.dead_letters[number] = [*reasons, *lost]

    def _inspect(self, *command: Any) -> Any:
        reply = self._server.inspect(*command)
        return [] if isinstance(reply, ReplyError) or reply is None else reply

    def report_once(self, invariant: str, text: str) -> None:
        """Record a violation, unless a violation with this text was recorded before."""
        if text not in self._reported_texts:
            self._reported_texts.add(text)
            self.report(invariant, text)

    def report(self, invariant: str, text: str) -> None:
        """Record a violation."""
        self.violations.append(Violation(invariant, f"{self.now:.3f} s: {text}"))


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
