"""Checks that need more than one moment: deadlines, outcomes, and what must be free after all entries are settled."""

import asyncio
from collections import Counter
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor import Defer, Effects, Reject, Retry
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from streamconsumer.redis_client.replies import parse_id
from tests.simulation.handlers import PROBE_NUMBER, busy_seconds
from tests.simulation.loop import START_MICROSECONDS
from tests.simulation.pod import Pod
from tests.simulation.records import EntryRecord, Run

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

NODE_LOSS_SECONDS = 40.0
"""Time without a fault within which another pod claims the entries of another process that ended."""

FOREIGN_OWNER_SECONDS = 60.0
"""Time without a fault within which a pod claims the entries of another program's consumer."""

RETRY_SECONDS = 20.0
"""Time without a fault within which a retry starts after its delay, if a slot is free."""

REPAIR_SECONDS = 60.0
"""Time within which a retry starts after the schedule of the postponed entries was lost."""

READY_SECONDS = 5.0
"""Time after the start within which a pod becomes ready."""

UNREAD_SECONDS = 15.0
"""Time without a fault within which a pod without running handlers reads an entry."""

MAX_WAITING = 20
"""If more entries wait, a late retry may only wait for the others."""

MAX_BACKOFF_SECONDS = 4.0

BACKGROUND_TASKS = {
    "HeartbeatThread._run": 1,
    "RecoveryLoop.run": 1,
    "Supervisor.run": 3,
    "LivenessMonitor.run": 1,
    "RedisStreamProcessor._consume_loop": 1,
}
"""Coroutines that run as long as a pod listens, with the number of their tasks."""

MAX_IDLE_COMMANDS = 5
"""Maximum number of commands per second of a pod without messages."""

MAX_IDLE_BYTES = 60_000
"""Maximum number of bytes per second that a pod without messages receives."""

MAX_CONNECTS = 60
"""Maximum number of connections that a pod opens between two checks. A pod without a pause opens more."""

GROUP_FAULTS = {
    *("group_destroyed", "group_recreated", "lost_writes", "failover", "empty_replica", "stream_renamed"),
    *("stream_deleted", "stream_recreated", "companion_deleted", "out_of_memory", "foreign_set_id"),
}
"""Faults after which numbers that the engine counts may differ from the number of entries."""


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
        self._slots, self._full_at = 1, 0.0
        """Number of slots, and the last time at which no slot was free."""
        self._has_own_manager = any(plan.manager for plan in simulation.plan.pods)

    @property
    def _retry_seconds(self) -> float:
        """Time within which a retry starts after its delay. The server's clock decides when a retry is due."""
        plan = self._simulation.plan  # with the faults that were added at await points
        is_schedule_lost = {"schedule_deleted", "companion_deleted"} & {each.kind for each in plan.faults}
        return plan.clock_jump_seconds + (REPAIR_SECONDS if is_schedule_lost else RETRY_SECONDS)

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
        if all(has_no_free_slot(pod) for pod in pods):
            self._full_at = self._ledger.now
        if len(waiting) > MAX_WAITING:
            self._crowded_at = self._ledger.now
        for record in waiting:
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
        limit = (NODE_LOSS_SECONDS if previous else FOREIGN_OWNER_SECONDS) + plan.clock_jump_seconds
        if previous and is_provable:  # by its connections; otherwise by its idle time on the server's clock
            limit = plan.take_over_seconds
        limit += self._busy_seconds * (self._count_before(record, since, live_names) // slots)
        if self._is_late(since, limit) and record.is_new("take_over"):
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
        since = max(calm_since, due_at, record.foreign_at + 20 if record.foreign_at else 0.0)
        if self._is_late(since, self._retry_seconds) and record.is_new("late_retry"):
            seconds = self._ledger.now - since
            self._ledger.report("late_retry", f"{record.entry_id} was due {seconds:.1f} s ago; it is {record.state}")

    def _is_late(self, since: float, seconds: float) -> bool:
        """Return True if an entry has waited longer than `seconds` with a free slot, or in addition to the longest time
        until a slot is free."""
        busy_seconds = self._busy_seconds * (1 + self._waiting // self._slots)
        return (
            self._ledger.now - max(since, self._full_at) > seconds or self._ledger.now - since > seconds + busy_seconds
        )


def has_no_free_slot(pod: Pod) -> bool:
    """Return True if all slots of the pod are occupied, or if the pod has none yet."""
    return pod.processor is None or pod.processor._pipeline.in_flight.running >= pod.plan.concurrency


def has_seen(pod: Pod, name: str) -> bool:
    """Return True if the pod has seen the connections of a consumer."""
    claimer = pod.processor._pipeline.consumer.claimer if pod.processor else None
    return claimer is not None and claimer._observer.has_seen(name)


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


def check_outcomes(simulation: "Simulation") -> None:
    """Compare the outcome of each entry with the decision of its handler."""
    ledger, plan = simulation.ledger, simulation.plan
    has_own_manager = any(pod.manager for pod in plan.pods)
    is_failing = any(has_open_breaker(pod) for pod in simulation.all_pods if pod.is_listening)
    for record in ledger.records.values():
        is_unclaimed = has_own_manager and (record.runs or record.state == "owned")
        if record.is_open and not is_failing and not is_unclaimed:
            ledger.report("stuck", f"{record.entry_id} is {record.state} at the end; runs: {len(record.runs)}")
        if not record.foreign_at:
            _check_dead_letter(simulation, record)
            _check_effects(simulation, record)
            _check_delays(simulation, record)


def _check_dead_letter(simulation: "Simulation", record: EntryRecord) -> None:
    ledger, reasons = simulation.ledger, simulation.ledger.dead_letters.get(record.number, [])
    ended = [run for run in record.runs if run.ended_at is not None and run.loss is None]
    if record.state == "settled" and ended and is_reject(ended[-1].outcome) and "Rejected" not in reasons:
        ledger.report("wrong_outcome", f"{record.entry_id} was rejected; its dead letters: {reasons}")
    starts = sum(not isinstance(run.outcome, Defer) for run in record.runs)
    needed = min(pod.max_deliveries for pod in simulation.plan.pods)
    is_unstarted_read = needed > 1 and not any(run.process is record.reader for run in record.runs)
    # The delivery count of an entry in the previous stream can be restored, and its thread can still occupy the id.
    previous = 1 + len(record.previous.runs) if record.previous else 0
    attempts = starts + is_unstarted_read + record.lost_attempts + previous
    if attempts < needed and {"MaxDeliveries", "Crashed"} & set(reasons):
        invariant = "dead_letter_early" if starts else "dead_letter_without_start"
        ledger.report(invariant, f"{record.entry_id}: {reasons[0]} after {starts} of {needed} attempts")
    is_plain = not simulation.plan.faults and not any(
        pod.processor and pod.processor.metrics.breaker_opened for pod in simulation.all_pods
    )
    if is_plain and starts > needed:
        ledger.report("too_many_attempts", f"{record.entry_id} was started {starts} times, expected at most {needed}")


def is_reject(error: object) -> bool:
    """Return True if the error, or an error of its group, is a Reject."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_reject(each) for each in error.exceptions)
    return isinstance(error, Reject)


def _check_effects(simulation: "Simulation", record: EntryRecord) -> None:
    if not any(isinstance(run.outcome, Effects) for run in record.runs):
        return
    if record.settled_at is not None and simulation.ledger.is_undone(record.settled_at):
        return
    count = simulation.ledger.effect_count(record.number)
    is_committed = record.state == "settled" and record.number not in simulation.ledger.dead_letters
    if count > 1 or (is_committed and count == 0):
        simulation.ledger.report("effects", f"the effects of {record.entry_id} were applied {count} times")


def _check_delays(simulation: "Simulation", record: EntryRecord) -> None:
    """Report a retry that started before its delay, although Redis or a running processor knew the delay."""
    if any(fault.kind in {"schedule_deleted", "companion_deleted", "clock_jump"} for fault in simulation.plan.faults):
        return
    for run, next_run in zip(record.runs, record.runs[1:], strict=False):
        if run.ended_at is None or run.loss or (next_run.is_after_stop and not run.was_postponed):
            continue
        if isinstance(run.outcome, Defer | Retry) and next_run.started_at < run.ended_at + max_delay(run) - 0.05:
            seconds = next_run.started_at - run.ended_at
            simulation.ledger.report("early_retry", f"{record.entry_id} was retried {seconds:.2f} s after its deferral")


def check_trimmed(simulation: "Simulation") -> None:
    """Report entries that were trimmed while pending, and neither handled nor counted as lost to trimming.

    If a process is killed while it has such an entry in flight, no program knows the entry."""
    kinds = {fault.kind for fault in simulation.plan.faults}
    if kinds & GROUP_FAULTS or not simulation.trimmed_pending:
        return
    ledger = simulation.ledger
    open_records = [
        record
        for number in simulation.trimmed_pending
        if (record := ledger.records[number]).number not in ledger.dead_letters
        and not any(run.process.is_dead and not run.process.is_stopping for run in record.runs)
        and not any(run.is_success and not isinstance(run.outcome, Effects) for run in record.runs)
        and not ledger.effect_count(number)
    ]
    counted = sum(pod.processor.metrics.lost_to_trimming for pod in simulation.all_pods if pod.processor)
    if len(open_records) > counted:
        ids = ", ".join(record.entry_id for record in open_records)
        ledger.report("unaccounted", f"{ids}: trimmed while pending; {counted} are counted as lost to trimming")


def check_background_tasks(simulation: "Simulation") -> None:
    """Report background tasks that ended although their pod listens and reports that it is alive."""
    kinds = {fault.kind for fault in simulation.plan.faults}
    for pod in simulation.all_pods:
        is_unusable = isinstance(pod.exit_error, InvalidSettings) and "eval_refused" in kinds
        if pod.exit_error is not None and not is_unusable:
            simulation.ledger.report("exit", f"{pod.plan.name} ended with {pod.exit_error!r}")
        if not pod.is_listening or pod.plan.manager or not pod.health.liveness()[0]:
            continue
        names = Counter(coroutine_name(task) for task in simulation.loop.tasks_of(pod.process))
        restarts = pod.processor.metrics.background_restarts if pod.processor else 0
        names["HeartbeatThread._run"] = restarts or sum(not task.done() for task in pod.thread_tasks)
        for name, count in BACKGROUND_TASKS.items():
            if names[name] < count:
                simulation.ledger.report("background", f"{name} of {pod.plan.name} has ended; /livez reports success")


def coroutine_name(task: asyncio.Task[Any]) -> str:
    """Return the qualified name of the coroutine that a task runs."""
    return str(getattr(task.get_coro(), "__qualname__", ""))


def check_readiness(simulation: "Simulation") -> None:
    """Report pods that are not ready although no fault is active."""
    for pod in simulation.all_pods:
        is_ready, reason = pod.health.readiness()
        is_new = pod.started_at is None or simulation.ledger.now - pod.started_at < READY_SECONDS
        may_be_ready = pod.is_listening and pod.can_start_threads and not is_new
        if may_be_ready and not is_ready and simulation.has_been_calm:
            simulation.ledger.report("not_ready", f"{pod.plan.name} is not ready: {reason}")


def check_connects(simulation: "Simulation") -> None:
    """Report pods that have opened too many connections since the last check."""
    for process, count in simulation.network.opened.items():
        if count > MAX_CONNECTS:
            simulation.ledger.report_once("reconnects", f"{process.name} reconnects without a pause")
    simulation.network.opened.clear()


def check_memory(simulation: "Simulation") -> None:
    """Report what a pod still holds although all entries are settled."""
    for pod in simulation.all_pods:
        if not pod.is_listening or pod.processor is None or pod.plan.manager:
            continue
        if any(
            run.is_live and run.process is pod.process for r in simulation.ledger.records.values() for run in r.runs
        ):
            continue
        pipeline = pod.processor._pipeline
        assert isinstance(pipeline.consumer, RedisConsumer)
        table, acks = pipeline.in_flight, pipeline.consumer.ack_buffer
        held: dict[str, Sized] = {
            "entries in flight": table.entries,
            "tasks": table.tasks,
            "retry timers": table._retry_timers,
            "blocked entries": table._blocked._sizes,
            "lanes": table.ready_queue._lanes,
            "ready entries": table.ready_queue.ready or table.ready_queue.suspects,
            "acknowledgements": acks._buffered or acks._unconfirmed,
            "ids in scripts": acks.ids_in_scripts or acks._settled_ids,
            "threads": pod.processor._thread_pool.busy_ids,
        }
        left = {name: len(value) for name, value in held.items() if value}
        if left:
            simulation.ledger.report("memory", f"{pod.plan.name} holds {left} although all entries are settled")


def check_idle_cost(simulation: "Simulation", since: float) -> None:
    """Report pods that send too many commands, or receive too many bytes, without messages."""
    seconds = simulation.ledger.now - since
    if any(record.since > since for record in simulation.ledger.records.values()):
        return  # an entry was delivered again
    for pod in simulation.all_pods:
        was_listening = pod.is_listening and (pod.started_at or 0.0) < since
        if was_listening and not pod.plan.manager and not _has_entries(pod):
            commands = simulation.activity.command_count(pod.process, since + START_MICROSECONDS / 1e6) / seconds
            received = simulation.received_bytes.get(pod.process, 0) / seconds
            if commands > MAX_IDLE_COMMANDS or received > MAX_IDLE_BYTES:
                text = f"{commands:.1f} commands/s, {received / 1000:.0f} kB/s"
                simulation.ledger.report("idle_cost", f"{pod.plan.name} needs {text} without messages")


def _has_entries(pod: Pod) -> bool:
    """Return True if the pod handles messages, for example messages of a stream that was lost meanwhile."""
    return pod.processor is not None and bool(pod.processor._pipeline.in_flight.entries)


def missing_slots(simulation: "Simulation") -> list[str]:
    """Return the pods in which fewer probes than slots run at present."""
    running: Counter[object] = Counter()
    for record in simulation.ledger.records.values():
        if record.number >= PROBE_NUMBER:
            running.update(run.process for run in record.runs if run.is_live)
    return [
        f"{pod.plan.name} runs {running[pod.process]} of {pod.plan.concurrency}"
        for pod in simulation.all_pods
        if pod.is_listening and not has_open_breaker(pod) and running[pod.process] < pod.plan.concurrency
    ]
