"""Deadlines of entries that wait: for a read, for another owner, or for a retry."""

from typing import TYPE_CHECKING

from streamconsumer.processor import Defer, Retry
from streamconsumer.redis_client.keys import COMPANION_SUFFIXES
from streamconsumer.redis_client.replies import parse_id
from tests.simulation.handlers import busy_seconds
from tests.simulation.ledger import FOREIGN_SECONDS
from tests.simulation.plan import SECOND, FaultPlan
from tests.simulation.pod import Pod
from tests.simulation.records import EntryRecord, Run

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

NODE_LOSS_SECONDS = 40.0
"""Time without a fault within which another pod claims the entries of another process that ended."""

FOREIGN_OWNER_SECONDS = 60.0
"""Time without a fault within which a pod claims the entries of another program's consumer."""

RETRY_SECONDS = 20.0
"""Time without a fault within which a retry starts after its delay, if a slot is free for it."""

REPAIR_SECONDS = 60.0
"""Time within which a retry starts after the schedule of the postponed entries was lost."""

UNREAD_SECONDS = 15.0
"""Time without a fault within which a pod without running handlers reads an entry."""

MAX_WAITING = 20
"""If more entries wait, a late retry may only wait for the others."""

MAX_BACKOFF_SECONDS = 4.0


class Deadlines:
    """Reports entries that wait longer than promised although no fault is active."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation, self._ledger = simulation, simulation.ledger
        kinds = {plan.handler for plan in simulation.plan.pods}
        self._busy_seconds = busy_seconds(simulation.plan)
        self._can_hang = "hung_thread" in kinds
        self._crowded_at = 0.0
        """Last time at which more than `MAX_WAITING` entries waited."""
        self._waiting = 0
        """Maximum number of entries that waited at the same time."""
        self._slots, self._full_at = 1, dict[str, float]()
        """Number of slots, and the last time at which no slot was free, by the consumer name of the pod. The empty name
        stands for all pods together."""
        self._listening: dict[str, int] = {}
        """Number of slots of the pods that listen, by their consumer names."""
        self._has_own_manager = any(plan.manager for plan in simulation.plan.pods)

    def check(self) -> None:
        """Check all entries at this moment."""
        calm_since = self._ledger.calm_since()
        pods = [pod for pod in self._simulation.all_pods if pod.is_listening]
        if calm_since is None or self._can_hang or self._has_own_manager or not pods:
            return
        if any(has_open_breaker(pod) for pod in pods):
            return
        live_names = {pod.consumer for pod in self._simulation.all_pods if not pod.has_ended}
        runs = [run for record in self._ledger.records.values() for run in record.runs]
        busy_at = max((self._ledger.now if run.is_live else run.ended_at or 0.0 for run in runs), default=0.0)
        listening_since = max(calm_since, min(pod.started_at or 0.0 for pod in pods) + 2.0)
        waiting = [
            record
            for record in self._ledger.records.values()
            if record.is_open and not any(run.is_live for run in record.runs)
        ]
        self._waiting, self._slots = max(self._waiting, len(waiting)), sum(pod.plan.concurrency for pod in pods)
        self._listening = {pod.consumer: pod.plan.concurrency for pod in pods}
        full = {pod.consumer for pod in pods if has_no_free_slot(pod)}
        self._full_at.update(dict.fromkeys(full if full < self._listening.keys() else {*full, ""}, self._ledger.now))
        if len(waiting) > MAX_WAITING:
            self._crowded_at = self._ledger.now
        for record in waiting:
            if record.state == "owned" and record.owner not in live_names:
                record.stranded_at = self._ledger.now
            if any(waits_for_another(record, pod) for pod in pods):
                record.blocked_at = self._ledger.now
            self._check_owner(record, listening_since, live_names)
            self._check_retry(record, max(listening_since, self._crowded_at))
            if record.state == "unread":
                self._check_unread(record, max(listening_since, busy_at))

    def _check_unread(self, record: EntryRecord, calm_since: float) -> None:
        seconds = self._ledger.now - max(calm_since, record.since)
        if seconds > UNREAD_SECONDS and record.is_new("not_read"):
            self._ledger.report("not_read", f"{record.entry_id} is unread after {seconds:.1f} s; no handler is running")

    def _check_owner(self, record: EntryRecord, calm_since: float, live_names: set[str]) -> None:
        if record.state != "owned" or record.owner in live_names:
            return
        previous = [
            pod for pod in self._simulation.all_pods if pod.consumer == record.owner and pod.died_at is not None
        ]
        since = max([calm_since, record.since, *(pod.died_at or 0.0 for pod in previous)])
        observers = self._observers(record.owner)
        is_provable = bool(observers) and not any(pod.is_node_lost for pod in previous)
        listening = [pod for pod in self._simulation.all_pods if pod.is_listening]
        slots = sum(pod.plan.concurrency for pod in (observers if previous and is_provable else listening))
        plan = self._simulation.plan
        limit = FOREIGN_OWNER_SECONDS + plan.clock_jump_seconds
        if previous:
            by_idle_time = NODE_LOSS_SECONDS + plan.clock_jump_seconds  # on the server's clock
            limit = plan.take_over_seconds if is_provable else by_idle_time
        limit += self._busy_seconds * (self._count_before(record, since, live_names) // slots)
        if self._is_late(record, since, limit) and record.is_new("take_over"):
            seconds = self._ledger.now - since
            self._ledger.report("take_over", f"{record.entry_id} still belongs to {record.owner} after {seconds:.1f} s")

    def _observers(self, name: str) -> list[Pod]:
        """Return the pods that have seen the connections of a consumer, so that they can prove that they have ended."""
        return [pod for pod in self._simulation.all_pods if pod.is_listening and has_seen(pod, name)]

    def _count_before(self, record: EntryRecord, since: float, live_names: set[str]) -> int:
        """Return the number of entries that may start before an entry of a dead consumer: the entries of all dead
        consumers, and older entries that have started since the death. New entries must not start before it."""
        records = self._ledger.records.values()
        dead = sum(each.state == "owned" and each.owner not in live_names for each in records)
        started = [each for each in records if any(run.started_at > since for run in each.runs)]
        return dead + sum(parse_id(each.entry_id) < parse_id(record.entry_id) for each in started)

    def _check_retry(self, record: EntryRecord, calm_since: float) -> None:
        runs = [run for run in record.runs if run.ended_at is not None and not run.process.is_dead]
        if record.state not in {"owned", "postponed"} or not runs or runs[-1].is_success:
            return
        due_at = (runs[-1].ended_at or 0.0) + max_delay(runs[-1])
        repaired_at = record.foreign_at + FOREIGN_SECONDS if record.foreign_at else 0.0
        valid_from, moved_at = self._schedule_valid_from(runs[-1]), self._lane_moved_at(record)
        since = max(calm_since, due_at, repaired_at, record.stranded_at, valid_from, moved_at)
        if self._is_late(record, since, RETRY_SECONDS) and record.is_new("late_retry"):
            seconds = self._ledger.now - since
            self._ledger.report("late_retry", f"{record.entry_id} was due {seconds:.1f} s ago; it is {record.state}")

    def _lane_moved_at(self, record: EntryRecord) -> float:
        """Return when the owner of an entry could start the next entry with the same ordering key: after the last run,
        or after the delay of its retry. 0.0 if the plan has no ordering key."""
        if not self._ledger.is_ordered:
            return 0.0
        others = (each for each in self._ledger.records.values() if each.key == record.key and each is not record)
        runs = (run for each in others for run in each.runs if run.consumer == record.owner)
        ended = ((run.ended_at, 0.0 if run.is_success else max_delay(run)) for run in runs)
        return max((at + delay for at, delay in ended if at is not None), default=0.0)

    def _schedule_valid_from(self, run: Run) -> float:
        """Return the time from which the schedule contains the entry of a run with its due time, or at which the due
        time has passed, if the schedule was lost or the server's clock was ahead when the entry was postponed."""
        faults = [
            each for each in self._simulation.plan.faults if loses_delay(each, run.ended_at or 0, self._ledger.now)
        ]
        jumps = [each for each in faults if each.kind == "clock_jump"]
        ahead = sum(max(each.duration, each.amount) for each in jumps) / SECOND + max_delay(run)
        valid_from = [each.end / SECOND + ahead for each in jumps]
        repairs = [loss_end(each) / SECOND + REPAIR_SECONDS - RETRY_SECONDS for each in faults if each not in jumps]
        return max([*valid_from, *repairs], default=0.0)

    def _is_late(self, record: EntryRecord, since: float, seconds: float) -> bool:
        """Return True if an entry has waited longer than `seconds` with a free slot, or in addition to the longest time
        until a slot is free. Entries that wait for each other use one slot. An entry that a pod owns waits for a slot
        of this pod."""
        slots = 1 if record.blocked_at > since else self._listening.get(record.owner, self._slots)
        busy_seconds = self._busy_seconds * (1 + self._waiting // slots)
        owner = record.owner if record.owner in self._listening else ""
        free_since = max(since, self._full_at.get(owner, 0.0), record.blocked_at)
        return self._ledger.now - free_since > seconds or self._ledger.now - since > seconds + busy_seconds


def has_no_free_slot(pod: Pod) -> bool:
    """Return True if all slots of the pod are occupied, or if the pod has none yet."""
    return pod.processor is None or pod.processor._pipeline.in_flight.running >= pod.plan.concurrency


def waits_for_another(record: EntryRecord, pod: Pod) -> bool:
    """Return True if the entry waits in the pod for another entry: one with the same ordering key, or a suspect."""
    entry = pod.processor._pipeline.in_flight.entries.get(record.entry_id) if pod.processor else None
    if entry is None or pod.processor is None:
        return False
    queue = pod.processor._pipeline.in_flight.ready_queue
    is_in_lane = entry.lane is not None and entry in queue._lanes.get(entry.lane, ())
    return is_in_lane or (queue._active_suspect is not None and entry in queue.suspects)


def has_seen(pod: Pod, name: str) -> bool:
    """Return True if the pod has seen the connections of a consumer."""
    claimer = pod.processor._pipeline.consumer.claimer if pod.processor else None
    return claimer is not None and claimer._observer.has_seen(name)


def loses_delay(fault: FaultPlan, begin: float, end: float) -> bool:
    """Return True if the fault changes the due time of an entry that is postponed during a period.

    While the stream is renamed, pods delete the due times of its entries."""
    suffix = COMPANION_SUFFIXES[fault.amount % len(COMPANION_SUFFIXES)]
    is_deletion = (fault.kind, suffix) == ("companion_deleted", "postponed")
    is_loss = is_deletion or fault.kind in {"schedule_deleted", "stream_renamed", "clock_jump"}
    return is_loss and fault.at <= end * SECOND and loss_end(fault) >= begin * SECOND


def loss_end(fault: FaultPlan) -> int:
    """Return the time until which a fault changes due times."""
    return fault.at if fault.kind in {"schedule_deleted", "companion_deleted"} else fault.end


def max_delay(run: Run) -> float:
    """Return the longest delay after which the next attempt is due."""
    if isinstance(run.outcome, Defer):
        return run.outcome.after.total_seconds()
    if isinstance(run.outcome, Retry) and run.outcome.after is not None:
        return run.outcome.after.total_seconds()
    return MAX_BACKOFF_SECONDS


def has_open_breaker(pod: Pod) -> bool:
    """Return True if the circuit breaker of the pod is open."""
    return pod.processor is not None and pod.processor._pipeline.settler._breaker.is_open
