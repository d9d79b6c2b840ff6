"""Checks of the outcomes of all entries, and of what must be free after all entries are settled."""

import asyncio
from collections import Counter
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor import Defer, Effects, Reject, Retry
from streamconsumer.processor.consumer.redis_consumer import RedisConsumer
from tests.simulation.deadlines import has_open_breaker, loses_delay, max_delay
from tests.simulation.handlers import PROBE_NUMBER
from tests.simulation.loop import START_MICROSECONDS
from tests.simulation.pod import Pod
from tests.simulation.records import EntryRecord

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

READY_SECONDS = 5.0
"""Time after the start within which a pod becomes ready."""

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
    previous = record.previous.runs if record.previous else ()  # their threads may still occupy the id
    of_previous = len(previous) if record.is_mistaken else any(run.is_thread for run in previous)
    attempts = starts + is_unstarted_read + record.lost_attempts + of_previous
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
    for run, next_run in zip(record.runs, record.runs[1:], strict=False):
        if run.ended_at is None or run.loss or run.was_settled or (next_run.is_after_stop and not run.was_postponed):
            continue
        if any(loses_delay(fault, run.ended_at, next_run.started_at) for fault in simulation.plan.faults):
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
    for name, reason in unready_pods(simulation).items() if simulation.has_been_calm else ():
        simulation.ledger.report("not_ready", f"{name} is not ready: {reason}")


def unready_pods(simulation: "Simulation") -> dict[str, str]:
    """Return the names of the pods that are not ready although they had time to start, and the reasons."""
    unready: dict[str, str] = {}
    for pod in simulation.all_pods:
        is_ready, reason = pod.health.readiness()
        is_new = pod.started_at is None or simulation.ledger.now - pod.started_at < READY_SECONDS
        if pod.is_listening and pod.can_start_threads and not is_new and not is_ready:
            unready[pod.plan.name] = reason
    return unready


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
