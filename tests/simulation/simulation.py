"""Simulation: runs a plan on the real engine and a real server, and checks the promises after each command."""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from hiredis import ReplyError

from tests.simulation.activity import Activity
from tests.simulation.checks import check_connects
from tests.simulation.deadlines import Deadlines
from tests.simulation.engine_errors import engine_log, error_text, unexpected_error
from tests.simulation.foreign_faults import FAULTS
from tests.simulation.ledger import FOREIGN_SECONDS, Ledger
from tests.simulation.loop import (
    CURRENT_THREAD,
    START_MICROSECONDS,
    Process,
    SimulationLoop,
    SimulationStalled,
    Thread,
)
from tests.simulation.network import Connection, Network
from tests.simulation.phases import REPLACEMENT_DELAY, SETTLING, Phases
from tests.simulation.plan import SECOND, FaultPlan, MessagePlan, Plan, PodPlan
from tests.simulation.pod import GROUP, STREAM, Pod
from tests.simulation.real_server import RealServer
from tests.simulation.records import EntryRecord, Loss, Result, Run, Violation
from tests.simulation.server import WRITE_COMMANDS, Arguments, SimulatedServer
from tests.simulation.trace import Show, Trace, command_text, operation_name, script_arguments, shortened
from tests.simulation.triggers import Triggers

WATCH_INTERVAL = SECOND // 2
"""Virtual time between two checks of the deadlines."""

PROBE_INTERVAL, MAX_FAILED_PROBES = 10 * SECOND, 3
"""The kubelet restarts a container whose liveness probe fails this many times in a row."""

PRODUCER_PAUSE = SECOND
"""Virtual time after which a producer repeats an XADD that the server has refused."""

VALUES = {"": b"", "long": b"x" * 20_000, "huge": b"x" * 200_000, "binary": b"\xff\xfe"}
"""Values of the field `text`, by their name in the plan of a message."""


class Simulation:
    """The parts of one run. The faults use them."""

    def __init__(self, plan: Plan, real: RealServer, show: Show | None = None) -> None:
        self.plan = plan
        real.reset()
        self.loop = SimulationLoop(Random(f"{plan.seed} schedule"))
        self.server = SimulatedServer(real, self.loop)
        self.network = Network(self.loop, self.server, Random(f"{plan.seed} network"))
        self.activity = Activity(self.loop, self.network, self.server)
        self.ledger = Ledger(self.loop, self.server, self.activity, STREAM, GROUP)
        self.ledger.calm_since = self._calm_since
        self.ledger.is_ordered = any(pod.has_ordering_key for pod in plan.pods)
        self.pods: dict[str, Pod] = {}
        """Pods by the name in the plan. A replacement takes the place of its predecessor."""
        self.instances: dict[str, Pod] = {}
        """Pods by the name of their process."""
        self.all_pods: list[Pod] = []
        self.trimmed_pending: list[int] = []
        """Numbers of the messages whose entries were trimmed while they were pending."""
        self.snapshot_times: list[float] = []
        """Times at which pods have saved a snapshot of the group. Empty if the server has no snapshot."""
        self.received_bytes: Counter[Process] = Counter()
        """Bytes of the replies to each process since the last `clear`."""
        self.is_ending = False
        """True after all pods were stopped, so that no pod starts."""
        self._active_faults = 0
        self._last_fault_at = 0.0
        self._failed_probes: Counter[Pod] = Counter()
        self.triggers = Triggers(self)
        self._deadlines = Deadlines(self)
        self.trace = Trace(show)
        self.on_fault: Callable[[FaultPlan], object] = lambda _fault: None
        """Called before a fault starts."""
        self.on_command: Callable[[Arguments, Any], object] = lambda *_: None
        """Called after a command of a pod with its reply, before the ledger compares the states of the entries."""
        self.server.on_executed = self._on_executed
        self.network.on_reply = self._on_reply
        self.loop.before_step = self._on_step
        self.loop.on_exit = self._on_exit
        self.loop.on_task_error = self._on_error
        self.ledger.on_run = self._on_run
        self.ledger.on_state = self._on_state

    # -- running -------------------------------------------------------------------------------------------------------

    @property
    def microseconds(self) -> int:
        """Virtual microseconds since the start of the simulation."""
        return self.loop.microseconds - START_MICROSECONDS

    def run(self) -> Result:
        """Run the plan to its end."""
        for pod in self.plan.pods:
            self.loop.after(pod.start_at, self._start_pod, pod.name)
        for message in self.plan.messages:
            self.loop.after(message.at, self._add, message)
        for fault in self.plan.faults:
            if not fault.point:
                self.loop.after(fault.at, self.start_fault, fault)
        self.triggers.arm()
        self.loop.after(WATCH_INTERVAL, self._watch)
        self.loop.after(PROBE_INTERVAL, self._probe_liveness)
        gc_was_enabled = gc.isenabled()
        gc.disable()
        try:
            with engine_log(self._on_log, logging.INFO if self.trace.show else logging.WARNING):
                Phases(self).run()
        except SimulationStalled as error:
            self._report("stalled", str(error))
        finally:
            self.network.cut_all()
            self.server.close_all()
            if gc_was_enabled:
                gc.enable()
        return Result(
            (*self.ledger.violations, *(Violation(*each) for each in self.loop.errors)),
            self.trace.digest(),
            self.loop.steps,
            self.microseconds / SECOND,
            len(self.ledger.records),
            self.ledger.excuses,
        )

    def _report(self, invariant: str, text: str) -> None:
        self.ledger.report(invariant, text)

    def _watch(self) -> None:
        self._deadlines.check()
        check_connects(self)
        self.loop.after(WATCH_INTERVAL, self._watch)

    def _probe_liveness(self) -> None:
        """Restart the containers whose liveness probe fails, as the kubelet does."""
        for pod in self.all_pods:
            if not pod.is_listening or pod.health.liveness()[0]:
                self._failed_probes[pod] = 0
                continue
            self._failed_probes[pod] += 1
            if self._failed_probes[pod] == MAX_FAILED_PROBES:
                pod.crash()
                self.network.cut_all(pod.process)
                self.replace(pod, keeps_name=True)
        self.loop.after(PROBE_INTERVAL, self._probe_liveness)

    # -- events of the plan --------------------------------------------------------------------------------------------

    def _start_pod(self, name: str) -> None:
        self._launch(self.create_pod(next(each for each in self.plan.pods if each.name == name)))

    def create_pod(self, plan: PodPlan, *, consumer: str = "", pod_uid: str = "") -> Pod:
        """Create a pod without starting it."""
        random = Random(f"{self.plan.seed} {plan.name}")
        return Pod(plan, self.loop, self.ledger, random, consumer=consumer, pod_uid=pod_uid)

    def _launch(self, pod: Pod) -> None:
        if self.is_ending:
            return
        base_name = pod.plan.name.partition("~")[0]
        self.pods[base_name] = pod
        self.all_pods.append(pod)
        self.instances[pod.process.name] = pod
        pod.on_exit = lambda: None if pod.is_stopping else self.replace(pod, keeps_name=True)
        pod.start()

    def replace(self, pod: Pod, *, keeps_name: bool = False, can_start_threads: bool = True) -> None:
        """Start another pod in place of one that ends. Its name differs, as the names of a Deployment's pods do.

        If `keeps_name` is True, a new container starts in the same pod, with the same consumer name. A pod is replaced
        only once.
        """
        if pod.is_replaced:
            return
        pod.is_replaced = True
        base_name, _, generation = pod.plan.name.partition("~")
        plan = replace(pod.plan, name=f"{base_name}~{int(generation or 0) + 1}")
        successor = self.create_pod(plan, consumer=pod.consumer if keeps_name else "")
        successor.can_start_threads = can_start_threads
        self.loop.after(REPLACEMENT_DELAY, self._launch, successor)

    def _on_exit(self, process: Process, _error: BaseException) -> None:
        """End a process whose event loop has ended, and start a new container in the same pod."""
        pod = next(each for each in self.all_pods if each.process is process)
        if not process.is_exiting:
            pod.exit()
            self.replace(pod, keeps_name=True)

    def _add(self, message: MessagePlan) -> None:
        for number in range(message.number, message.number + message.count):
            self._produce(message.entry_id, number, message.key, VALUES[message.value])

    def _produce(self, entry_id: str, number: int, key: str, value: bytes) -> None:
        """Add an entry. If the server refuses it, repeat it later, with an id of the server if the id is too small."""
        if error := self.add(entry_id, number, key, value):
            later_id = "*" if "equal or smaller" in str(error) else entry_id
            self.loop.after(PRODUCER_PAUSE, self._produce, later_id, number, key, value)

    def add(
        self, entry_id: str, number: int, key: str, value: bytes = b"", *, is_quiet: bool = False
    ) -> ReplyError | None:
        """Add an entry as its producer. Returns the error if the server refuses the entry.

        If `is_quiet` is True, blocked reads do not get the entry yet."""
        execute = self.server.inspect if is_quiet else self.server.administer_quietly
        text = ("text", value) if value else ()
        reply = execute("XADD", STREAM, entry_id, "n", number, "key", key, *text)
        if isinstance(reply, ReplyError):
            return reply
        self.ledger.on_added(reply.decode(), number, key)
        if not is_quiet:
            self.server.serve_parked()
        return None

    def start_at_point(self, planned: FaultPlan | None, fault: FaultPlan) -> None:
        """Start a fault at an await point, now. `planned` is its plan before its time was known. None if it is new."""
        others = (each for each in self.plan.faults if each is not planned)
        self.plan = replace(self.plan, faults=tuple(sorted((*others, fault), key=lambda each: each.at)))
        self.start_fault(fault)

    def start_fault(self, fault: FaultPlan) -> None:
        """Start a fault. Does nothing if the pod has not started yet."""
        if fault.pod and fault.pod not in self.pods and not fault.point:
            return
        self._trace_fault("fault", fault)
        self.on_fault(fault)
        end = FAULTS[fault.kind](self, fault)
        self._last_fault_at = self.ledger.now
        self.ledger.check(fault.kind)
        if end is not None:
            self._active_faults += 1
            self.loop.after(fault.duration, self._end_fault, fault, end)

    def _end_fault(self, fault: FaultPlan, end: Any) -> None:
        self._trace_fault("fault ends", fault)
        end()
        self._active_faults -= 1
        self._last_fault_at = self.ledger.now
        self.ledger.check(fault.kind)

    def _calm_since(self) -> float | None:
        """Return the time since when no fault is active. None if a fault is active."""
        return None if self._active_faults else self._last_fault_at

    @property
    def has_been_calm(self) -> bool:
        """True if no fault was active within the time that the engine needs to repair everything."""
        return not self._active_faults and (
            self._last_fault_at == 0.0 or self.ledger.now - self._last_fault_at > FOREIGN_SECONDS
        )

    def _on_log(self, record: logging.LogRecord, handled: BaseException | None) -> None:
        label = CURRENT_THREAD.get().label
        self.trace.log(self.loop.microseconds, label, f"log {record.levelname}: {record.getMessage()}")
        self._on_error(handled)

    def _on_error(self, error: BaseException | None) -> None:
        has_own_manager = any(pod.manager for pod in self.plan.pods)  # its mistakes cause any errors
        if not has_own_manager and (unexpected := unexpected_error(error)) is not None:
            self.ledger.report_once("unexpected_error", error_text(unexpected))

    # -- what faults use -----------------------------------------------------------------------------------------------

    def pod(self, name: str) -> Pod:
        """Return the present pod with this name in the plan, or the pod of this instance."""
        return next((pod for pod in self.all_pods if pod.instance == name), None) or self.pods[name]

    def foreign(self, name: str, *command: Any, ids: Sequence[bytes] | None = None) -> None:
        """Execute the command of an administrator or another program."""
        self.ledger.on_foreign(name, None if ids is None else [each.decode() for each in ids])
        self.server.administer(*command)

    def pending_ids(self, consumer: str = "") -> list[bytes]:
        """Return the ids of the pending entries, or of those of one consumer."""
        lines = self.server.inspect("XPENDING", STREAM, GROUP, "-", "+", 100_000, *([consumer] if consumer else []))
        return [line[0] for line in lines] if isinstance(lines, list) else []

    def on_trimmed(self, ids: list[bytes]) -> None:
        """Record that entries are about to be trimmed."""
        pending = set(self.pending_ids())
        numbers = {record.entry_id: record.number for record in self.ledger.records.values()}
        self.trimmed_pending += [numbers[each.decode()] for each in ids if each in pending and each.decode() in numbers]

    def dump(self) -> dict[bytes, bytes]:
        """Return all keys of the server in serialized form."""
        keys = sorted(self.server.inspect("KEYS", "*"))
        return {key: self.server.inspect("DUMP", key) for key in keys}

    def restore(self, keys: dict[bytes, bytes], begin: float) -> None:
        """Replace all data of the server by its data at the time `begin`."""
        self.ledger.allow_reruns(begin, self.ledger.now + SETTLING / SECOND)
        self.ledger.on_group_lost(begin)
        self.snapshot_times = [each for each in self.snapshot_times if each <= begin]
        self.ledger.on_foreign("lost_writes")
        self.server.replace_data(keys)
        self.ledger.on_replaced()
        self.server.serve_parked()

    # -- trace ---------------------------------------------------------------------------------------------------------

    def _trace_fault(self, event: str, fault: FaultPlan) -> None:
        self.trace.add(self.loop.microseconds, event.encode(), f"{fault.kind} {fault.pod}".encode())
        self.trace.log(self.loop.microseconds, fault.pod, f"{event}: {fault.kind}")

    def _on_step(self, thread: Thread) -> None:
        self.trace.add(self.loop.microseconds, thread.trace_label)

    def _on_executed(self, client_id: int, arguments: Arguments, reply: Any) -> None:
        self.trace.add(self.loop.microseconds, b"%d" % client_id, b" ".join(arguments))
        if self.trace.show:
            self.trace.log(self.loop.microseconds, self.network.label(client_id), f"> {command_text(arguments)}")
        if client_id:
            self.on_command(arguments, reply)
        process = self.activity.on_executed(client_id)
        if process:
            self._on_script(process, arguments, reply)
        if client_id and arguments[0].upper() in WRITE_COMMANDS:
            self.ledger.check(operation_name(arguments), process)

    def _on_script(self, process: Process, arguments: Arguments, reply: Any) -> None:
        """Record what the scripts of a process have done, if the state of the group does not show it."""
        match operation_name(arguments), reply:
            case "SAVE", b"saved":
                self.snapshot_times.append(self.ledger.now)
            case "RESTORE_GROUP", list():
                is_new, has_snapshot = reply[1] == 1, bool(self.snapshot_times)
                self.ledger.on_restored(process, reply[0].decode(), is_new_stream=is_new, has_snapshot=has_snapshot)
                if is_new:
                    self.snapshot_times.clear()  # the script deletes the snapshot of the previous stream
            case "START_ATTEMPT", b"done":
                self.ledger.on_counted(process, script_arguments(arguments)[2].decode())
            case "REGISTER", bytes():
                _, consumer, token, value, *_ = (each.decode() for each in script_arguments(arguments))
                self.activity.on_registered(process, value, reply.decode())
                if token in reply.decode():
                    self._on_name_taken(process, consumer)

    def _on_name_taken(self, process: Process, consumer: str) -> None:
        """Record that other processes with the consumer name of a process have lost the entries that they handle."""
        for record in self.ledger.records.values():
            for run in record.runs:
                if run.is_live and run.loss is None and run.consumer == consumer and run.process is not process:
                    run.loss = Loss(self.ledger.now, "REGISTER", self.ledger.excuse(record, run, process))

    def _on_reply(self, connection: Connection, raw: bytes) -> None:
        self.received_bytes[connection.thread.process] += len(raw)
        self.trace.add(self.loop.microseconds, b"%d" % connection.client_id, raw)
        if self.trace.show:
            self.trace.log(self.loop.microseconds, connection.thread.label, f"< {shortened(raw)}")

    def _on_run(self, run: Run) -> None:
        event = f"starts attempt {run.attempt}" if run.ended_at is None else f"ends with {run.outcome!r}"
        self.trace.log(self.loop.microseconds, run.process.name, f"handler of {run.entry_id} {event}")

    def _on_state(self, record: EntryRecord, state: str, cause: str) -> None:
        self.trace.log(self.loop.microseconds, "", f"{record.entry_id} is {state} (before: {record.state}) by {cause}")


def simulate(
    plan: Plan,
    real: RealServer,
    show: Show | None = None,
    *,
    observe: Callable[[Simulation], object] = lambda _simulation: None,
) -> Result:
    """Run a plan. `show` is called with each line of the trace, `observe` with the simulation before it runs."""
    simulation = Simulation(plan, real, show)
    observe(simulation)
    result = simulation.run()
    loop = simulation.loop
    del simulation
    loop.dispose()
    return result
