"""Phases of a simulation: until all entries are settled, without messages, with all slots occupied, and the stop."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.checks import (
    check_background_tasks,
    check_idle_cost,
    check_memory,
    check_outcomes,
    check_readiness,
    check_trimmed,
    missing_slots,
    unready_pods,
)
from tests.simulation.deadlines import NODE_LOSS_SECONDS
from tests.simulation.handlers import MAX_ENTRIES_PER_READ, PROBE_NUMBER, busy_seconds, hung_seconds
from tests.simulation.plan import SECOND
from tests.simulation.records import EntryRecord

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

MAX_STEPS = 2_000_000

REPLACEMENT_DELAY = SECOND
"""Virtual time after which a new pod replaces one that has ended."""

SETTLING = 3 * SECOND
"""Virtual time after which everything that belongs to settled entries must be free."""

MAX_RECOVERY = 21 * SECOND
"""Virtual time without a fault after which each pod is ready, so that it does not repeat its checks of the server."""

IDLE = 5 * SECOND
"""Virtual time without messages in which the commands of each pod are counted."""

MAX_PROBING = 20 * SECOND
"""Virtual time within which probe messages must occupy all slots at the same time."""

MAX_READS_AHEAD = 3
"""Maximum number of reads whose entries a pod has in flight, in addition to the running ones."""


class Phases:
    """Runs the phases of one simulation."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation, self._loop, self._ledger = simulation, simulation.loop, simulation.ledger
        self._open_record: EntryRecord | None = None
        """An entry that was not settled at the last check. It is checked first the next time."""

    def run(self) -> None:
        """Run until all entries are settled, then check what must be free, occupy all slots, and stop all pods."""
        while (left := self._simulation.plan.quiet_from + 2 * REPLACEMENT_DELAY - self._simulation.microseconds) > 0:
            self._run_for(left)
        self._simulation.triggers.disarm()
        plan = self._simulation.plan  # with the faults that were added at await points
        seconds = max(busy_seconds(plan), hung_seconds(plan)) + plan.clock_jump_seconds
        settle_within = plan.settle_within + round(seconds * SECOND)
        open_before = self._count_open() + 1
        while self._count_open() < open_before:  # a backlog of slow messages takes longer
            open_before = self._count_open()
            self._run_for(settle_within, self._is_settled)
        check_background_tasks(self._simulation)
        check_readiness(self._simulation)
        check_outcomes(self._simulation)
        if self._is_settled() and all(each.invariant == "unexpected_error" for each in self._ledger.violations):
            self._wait_for_claims()
            self._wait_for_removed()
            self._run_for(MAX_RECOVERY, lambda: not unready_pods(self._simulation))
            check_readiness(self._simulation)
            self._run_for(SETTLING)
            check_memory(self._simulation)
            self._simulation.received_bytes.clear()
            idle_since = self._ledger.now
            self._run_for(IDLE)
            check_idle_cost(self._simulation, idle_since)
            if self._simulation.plan.has_probes:
                self._occupy_slots()
        self._stop_all()
        check_trimmed(self._simulation)

    def _run_for(self, microseconds: int, is_done: Callable[[], bool] = lambda: False) -> None:
        end = self._loop.microseconds + microseconds
        self._loop.run_until(lambda: self._loop.microseconds >= end or is_done(), max_steps=MAX_STEPS)

    def _wait_for_claims(self) -> None:
        """Run until nothing is pending. A dead pod can own trimmed entries that belong to no message. Another pod needs
        two commands per page to claim these entries, and is not idle while it does this."""
        end = self._loop.microseconds + round(NODE_LOSS_SECONDS * SECOND)
        while (count := len(self._simulation.pending_ids())) and self._loop.microseconds < end:
            self._run_for(SECOND)
        if count and not any(pod.manager for pod in self._simulation.plan.pods):
            self._ledger.report("stuck", f"{count} entries are pending although all messages are settled")

    def _wait_for_removed(self) -> None:
        """Run until no pod has an entry in flight that a fault has removed from the stream. The handler of such an
        entry can defer it several times."""
        removed = {record.entry_id for record in self._ledger.records.values() if record.state == "gone"}
        pods = [pod for pod in self._simulation.all_pods if pod.is_listening and pod.processor]
        tables = [pod.processor._pipeline.in_flight for pod in pods if pod.processor]
        settle_within = self._simulation.plan.settle_within
        self._run_for(settle_within, lambda: all(removed.isdisjoint(table.entries) for table in tables))

    def _is_settled(self) -> bool:
        if self._open_record is None or not self._open_record.is_open:
            self._open_record = next((each for each in self._ledger.records.values() if each.is_open), None)
        trimmed = (self._ledger.records[number] for number in self._simulation.trimmed_pending)
        return self._open_record is None and not any(run.is_live for record in trimmed for run in record.runs)

    def _count_open(self) -> int:
        return sum(record.is_open for record in self._ledger.records.values())

    def _occupy_slots(self) -> None:
        """Add more messages than slots, and check that all slots run at the same time."""
        pods = [pod for pod in self._simulation.all_pods if pod.is_listening]
        per_slot = MAX_ENTRIES_PER_READ if self._simulation.plan.pods[0].is_batch else 1
        count = sum(pod.plan.concurrency * per_slot + MAX_READS_AHEAD * MAX_ENTRIES_PER_READ for pod in pods)
        for number in range(count):
            self._simulation.add("*", PROBE_NUMBER + number, f"probe-{number}", is_quiet=True)
        self._simulation.server.serve_parked()
        missing: list[str] = []

        def is_occupied() -> bool:
            nonlocal missing
            missing = missing_slots(self._simulation)
            return not missing

        self._run_for(MAX_PROBING, is_occupied)
        if missing:
            self._ledger.report("slots", f"{'; '.join(missing)} although {count} messages were added")

    def _stop_all(self) -> None:
        self._simulation.is_ending = True
        for pod in self._simulation.all_pods:
            pod.stop()
        self._run_for(30 * SECOND, lambda: all(pod.has_ended for pod in self._simulation.all_pods))
        for pod in self._simulation.all_pods:
            if not pod.has_ended:
                self._ledger.report("stop", f"{pod.plan.name} has not stopped within 30 s")
