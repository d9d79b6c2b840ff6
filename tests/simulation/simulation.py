"""One simulation: runs a plan on the real engine and a real server, and checks the promises after each command."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from hiredis import ReplyError

from tests.simulation.faults import FAULTS, SILENCING
from tests.simulation.ledger import EXCUSED_SECONDS, EntryRecord, Ledger, Run, Violation
from tests.simulation.loop import START_MICROSECONDS, Process, SimulationLoop, SimulationStalled, Thread
from tests.simulation.network import Connection, Network
from tests.simulation.plan import SECOND, FaultPlan, Plan
from tests.simulation.pod import GROUP, STREAM, Pod
from tests.simulation.server import WRITE_COMMANDS, Arguments, RealServer, SimulatedServer
from tests.simulation.trace import Show, Trace, command_text, operation_name, shortened

MAX_STEPS = 2_000_000

REPLACEMENT_DELAY = SECOND
"""Virtual time after which a new pod replaces one that has ended."""


@dataclass(frozen=True)
class Result:
    """Outcome of a simulation."""

    violations: tuple[Violation, ...]
    trace_hash: str
    steps: int
    virtual_seconds: float
    messages: int
    excused_starts: int

    @property
    def is_ok(self) -> bool:
        return not self.violations


class Simulation:
    """The parts of one run. The faults use them."""

    def __init__(self, plan: Plan, real: RealServer, show: Show | None = None) -> None:
        self.plan = plan
        real.reset()
        self.loop = SimulationLoop(Random(f"{plan.seed} schedule"))
        self.server = SimulatedServer(real, self.loop)
        self.network = Network(self.loop, self.server, Random(f"{plan.seed} network"))
        self.ledger = Ledger(self.loop, self.server, STREAM, GROUP)
        self.ledger.is_silenced = self._is_silenced
        self.pods: dict[str, Pod] = {}
        """Pods by the name in the plan. A replacement takes the place of its predecessor."""
        self.all_pods: list[Pod] = []
        self._active_faults: list[FaultPlan] = []
        self.trace = Trace(show)
        self.server.on_executed = self._on_executed
        self.network.on_reply = self._on_reply
        self.loop.before_step = self._on_step
        self.loop.on_exit = self._on_exit
        self.ledger.on_run = self._on_run
        self.ledger.on_state = self._on_state

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run the plan to its end."""
        for pod in self.plan.pods:
            self.loop.after(pod.start_at, self._start_pod, pod.name)
        for message in self.plan.messages:
            self.loop.after(message.at, self._add, message)
        for fault in self.plan.faults:
            self.loop.after(fault.at, self._start_fault, fault)
        quiet = START_MICROSECONDS + self.plan.quiet_from + 2 * REPLACEMENT_DELAY
        deadline = quiet + self.plan.settle_within
        gc_was_enabled = gc.isenabled()
        gc.disable()
        try:
            self.loop.run_until(
                lambda: self._is_settled_after(quiet) or self.loop.microseconds > deadline, max_steps=MAX_STEPS
            )
            self._check_background_tasks()
            self.ledger.finish()
            self._stop_all()
        except SimulationStalled as error:
            self.ledger.violations.append(Violation("stalled", str(error)))
        finally:
            self.network.cut_all()
            self.server.close_all()
            if gc_was_enabled:
                gc.enable()
        violations = [*self.ledger.violations, *(Violation("background", each) for each in self.loop.errors)]
        return Result(
            tuple(violations),
            self.trace.digest(),
            self.loop.steps,
            (self.loop.microseconds - START_MICROSECONDS) / SECOND,
            len(self.ledger.entries),
            self.ledger.excused_starts,
        )

    def _is_settled_after(self, microseconds: int) -> bool:
        if self.loop.microseconds < microseconds:
            return False
        states = {record.state for record in self.ledger.entries.values()}
        return states <= {"settled", "gone"}

    def _stop_all(self) -> None:
        for pod in self.all_pods:
            pod.stop()
        end = self.loop.microseconds + 30 * SECOND
        self.loop.run_until(
            lambda: all(pod.has_ended for pod in self.all_pods) or self.loop.microseconds > end, max_steps=MAX_STEPS
        )
        for pod in self.all_pods:
            if not pod.has_ended:
                self._report("stop", f"{pod.plan.name} has not stopped within 30 s")

    def _check_background_tasks(self) -> None:
        """Report background tasks that ended, and slots that are not free, although the pod runs."""
        for pod in self.all_pods:
            if pod.has_ended or pod.is_stopping:
                if pod.exit_error is not None:
                    self._report("exit", f"{pod.plan.name} ended with {pod.exit_error!r}")
                continue
            for task in pod.thread_tasks:
                if task.done():
                    error = None if task.cancelled() else task.exception()
                    self._report("background", f"the heartbeat thread of {pod.plan.name} ended: {error!r}")
            processor = pod.processor
            if processor is not None and processor._loop_task is not None and processor._loop_task.done():
                self._report("background", f"the consume loop of {pod.plan.name} ended")

    def _report(self, invariant: str, text: str) -> None:
        self.ledger.violations.append(Violation(invariant, text))

    # -- events of the plan --------------------------------------------------------------------------------------------

    def _start_pod(self, name: str) -> None:
        plan = next(each for each in self.plan.pods if each.name == name)
        self._launch(Pod(plan, self.loop, self.ledger, Random(f"{self.plan.seed} {name}")))

    def _launch(self, pod: Pod) -> None:
        base_name = pod.plan.name.partition("~")[0]
        self.pods[base_name] = pod
        self.all_pods.append(pod)
        pod.start()

    def replace(self, pod: Pod) -> None:
        """Start another pod in place of one that ends. Its name differs, as the names of a Deployment's pods do."""
        base_name, _, generation = pod.plan.name.partition("~")
        name = f"{base_name}~{int(generation or 0) + 1}"
        successor = Pod(replace(pod.plan, name=name), self.loop, self.ledger, Random(f"{self.plan.seed} {name}"))
        self.loop.after(REPLACEMENT_DELAY, self._launch, successor)

    def _on_exit(self, process: Process, _error: BaseException) -> None:
        """End a process whose event loop has ended, and start another pod in its place."""
        pod = next(each for each in self.all_pods if each.process is process)
        pod.crash()
        self.network.cut_all(process)
        self.replace(pod)

    def _add(self, message: Any) -> None:
        reply = self.server.administer("XADD", STREAM, message.entry_id, "n", message.number, "key", message.key)
        if not isinstance(reply, ReplyError):
            self.ledger.on_added(reply.decode(), message.number)

    def _start_fault(self, fault: FaultPlan) -> None:
        if fault.pod and fault.pod not in self.pods:
            return
        self._trace_fault("fault", fault)
        self._active_faults.append(fault)
        end = FAULTS[fault.kind](self, fault)
        self.ledger.check(fault.kind)
        if end is not None:
            self.loop.after(fault.duration, self._end_fault, fault, end)

    def _end_fault(self, fault: FaultPlan, end: Any) -> None:
        self._trace_fault("fault ends", fault)
        end()
        self.ledger.check(fault.kind)

    # -- what faults use -----------------------------------------------------------------------------------------------

    def pod(self, name: str) -> Pod:
        """Return the present pod with this name in the plan."""
        return self.pods[name]

    def foreign(self, name: str, *command: Any, ids: Sequence[bytes] | None = None) -> None:
        """Execute the command of an administrator or another program."""
        self.ledger.on_foreign(name, None if ids is None else [each.decode() for each in ids])
        self.server.administer(*command)

    def pending_ids(self) -> list[bytes]:
        """Return the ids of the pending entries."""
        lines = self.server.inspect("XPENDING", STREAM, GROUP, "-", "+", 1000)
        return [line[0] for line in lines] if isinstance(lines, list) else []

    def dump(self) -> dict[bytes, bytes]:
        """Return all keys of the server in serialized form."""
        keys = sorted(self.server.inspect("KEYS", "*"))
        return {key: self.server.inspect("DUMP", key) for key in keys}

    def restore(self, keys: dict[bytes, bytes]) -> None:
        """Replace all data of the server."""
        self.ledger.on_foreign("lost_writes")
        self.server.inspect("FLUSHALL")
        for key, value in keys.items():
            self.server.inspect("RESTORE", key, 0, value)
        self.server.serve_parked()

    def _is_silenced(self, process: Process) -> bool:
        now = self.loop.microseconds - START_MICROSECONDS
        base_name = process.name.partition("~")[0]
        return any(
            fault.kind in SILENCING
            and fault.at <= now <= fault.end + EXCUSED_SECONDS * SECOND
            and (not fault.pod or fault.pod == base_name or fault.kind in _SERVER_FAULTS)
            for fault in self._active_faults
        )

    # -- trace ---------------------------------------------------------------------------------------------------------

    def _trace_fault(self, event: str, fault: FaultPlan) -> None:
        self.trace.add(self.loop.microseconds, event.encode(), f"{fault.kind} {fault.pod}".encode())
        self.trace.tell(self.loop.microseconds, fault.pod, f"{event}: {fault.kind}")

    def _on_step(self, thread: Thread) -> None:
        self.trace.add(self.loop.microseconds, thread.trace_label)

    def _on_executed(self, client_id: int, arguments: Arguments, _reply: Any) -> None:
        self.trace.add(self.loop.microseconds, b"%d" % client_id, b" ".join(arguments))
        if self.trace.show:
            self.trace.tell(self.loop.microseconds, self.network.label(client_id), f"> {command_text(arguments)}")
        if client_id and arguments[0].upper() in WRITE_COMMANDS:
            self.ledger.check(operation_name(arguments))

    def _on_reply(self, connection: Connection, raw: bytes) -> None:
        self.trace.add(self.loop.microseconds, b"%d" % connection.client_id, raw)
        if self.trace.show:
            self.trace.tell(self.loop.microseconds, connection.thread.label, f"< {shortened(raw)}")

    def _on_run(self, run: Run) -> None:
        event = f"starts attempt {run.attempt}" if run.ended_at is None else f"ends with {run.outcome!r}"
        self.trace.tell(self.loop.microseconds, run.process.name, f"handler of {run.entry_id} {event}")

    def _on_state(self, record: EntryRecord, state: str, cause: str) -> None:
        self.trace.tell(self.loop.microseconds, "", f"{record.entry_id} is {state} (before: {record.state}) by {cause}")


_SERVER_FAULTS = {
    *("server_down", "lost_writes", "empty_replica", "write_pause", "max_clients", "out_of_memory", "clock_jump"),
}


def simulate(plan: Plan, real: RealServer, show: Show | None = None) -> Result:
    """Run a plan. `show` is called with each line of the trace."""
    simulation = Simulation(plan, real, show)
    result = simulation.run()
    loop = simulation.loop
    del simulation
    loop.dispose()
    return result
