"""Faults of pods, of the network and of the server. `foreign_faults` contains the commands of other programs.

Each function starts one kind of fault, and returns the function that ends it. A function returns None if its fault
happens at one moment.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulation.plan import FaultPlan
from tests.simulation.pod import Pod
from tests.simulation.server import WRITE_COMMANDS

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

End = Callable[[], object]
Start = Callable[["Simulation", FaultPlan], End | None]

# -- faults of one pod -------------------------------------------------------------------------------------------------


def crash(simulation: "Simulation", fault: FaultPlan) -> None:
    """SIGKILL or an out-of-memory kill: the process ends, and its connections are closed."""
    simulation.replace(_kill(simulation, fault))


def removed(simulation: "Simulation", fault: FaultPlan) -> None:
    """SIGKILL without a replacement. Does nothing if no other pod listens."""
    if sum(pod.is_listening for pod in simulation.all_pods) > 1:
        _kill(simulation, fault)


def container_restart(simulation: "Simulation", fault: FaultPlan) -> None:
    """SIGKILL, followed by a new process in the same pod, with the same consumer name."""
    simulation.replace(_kill(simulation, fault), keeps_name=True)


def _kill(simulation: "Simulation", fault: FaultPlan) -> Pod:
    pod = simulation.pod(fault.pod)
    pod.crash()
    simulation.network.cut_all(pod.process)
    return pod


def node_loss(simulation: "Simulation", fault: FaultPlan) -> None:
    """The node disappears: the process ends, and the server does not notice it."""
    pod = simulation.pod(fault.pod)
    pod.is_node_lost = True
    pod.crash()
    simulation.replace(pod)


def sigterm(simulation: "Simulation", fault: FaultPlan) -> None:
    """Kubernetes stops the pod, and starts another one."""
    pod = simulation.pod(fault.pod)
    if not pod.has_ended and not pod.is_stopping:
        pod.stop()
        simulation.replace(pod)


def restart_listening(simulation: "Simulation", fault: FaultPlan) -> None:
    """A program calls `stop_listening` and then `start_listening`."""
    simulation.pod(fault.pod).restart_listening()


def twin(simulation: "Simulation", fault: FaultPlan) -> End:
    """A second process with the consumer name of the pod. It is killed at the end."""
    pod = simulation.pod(fault.pod)
    names = {each.plan.name for each in simulation.all_pods}
    name = next(name for count in itertools.count(1) if (name := pod.plan.name + "+" * count) not in names)
    second = simulation.create_pod(replace(pod.plan, name=name), consumer=pod.consumer, pod_uid=f"uid-{name}")
    simulation.all_pods.append(second)
    second.start()

    def end() -> None:
        second.crash()
        simulation.network.cut_all(second.process)

    return end


def freeze(simulation: "Simulation", fault: FaultPlan) -> End:
    """The process is stopped, as by SIGSTOP or a CPU limit."""
    return _hold(simulation, fault, ("main", "heartbeat"))


def gil_held(simulation: "Simulation", fault: FaultPlan) -> End:
    """A C extension holds the interpreter lock, so that no thread runs."""
    return _hold(simulation, fault, ("main", "heartbeat"))


def loop_blocked(simulation: "Simulation", fault: FaultPlan) -> End:
    """The handler blocks the event loop. The heartbeat thread goes on."""
    return _hold(simulation, fault, ("main",))


def _hold(simulation: "Simulation", fault: FaultPlan, names: tuple[str, ...]) -> End:
    process = simulation.pod(fault.pod).process
    record_end = simulation.activity.hold(process, fault.kind)
    threads = [process.thread(name) for name in names]
    for thread in threads:
        thread.holds += 1

    def end() -> None:
        record_end()
        for thread in threads:
            thread.holds -= 1

    return end


def memory_error(simulation: "Simulation", fault: FaultPlan) -> End:
    """The memory limit of the pod is reached: the heartbeat thread fails to allocate what it sends."""
    return _fail_writes(simulation, fault, "heartbeat")


def memory_error_in_loop(simulation: "Simulation", fault: FaultPlan) -> End:
    """The memory limit of the pod is reached: the event loop fails to allocate what it sends."""
    return _fail_writes(simulation, fault, "main")


def _fail_writes(simulation: "Simulation", fault: FaultPlan, thread_name: str) -> End:
    threads = simulation.pod(fault.pod).process.thread(thread_name).failing_writes
    threads.append(fault)
    return lambda: threads.remove(fault)


def no_new_threads(simulation: "Simulation", fault: FaultPlan) -> None:
    """The pod crashes. The operating system refuses to start threads in its replacement."""
    simulation.replace(_kill(simulation, fault), can_start_threads=False)


def late_timers(simulation: "Simulation", fault: FaultPlan) -> End:
    """Timers of the pod run up to `amount` microseconds late, and therefore in another order."""
    process = simulation.pod(fault.pod).process
    process.max_timer_delay = fault.amount

    def end() -> None:
        process.max_timer_delay = 0

    return end


# -- faults of the network ---------------------------------------------------------------------------------------------


def partition(simulation: "Simulation", fault: FaultPlan) -> End:
    """No byte reaches the server or the pod."""
    return _change_link(simulation, fault, "up_cuts", "down_cuts", by=1)


def partition_up(simulation: "Simulation", fault: FaultPlan) -> End:
    """The pod's bytes do not reach the server."""
    return _change_link(simulation, fault, "up_cuts", by=1)


def partition_down(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server's bytes do not reach the pod."""
    return _change_link(simulation, fault, "down_cuts", by=1)


def _change_link(simulation: "Simulation", fault: FaultPlan, *counters: str, by: int) -> End:
    """Add `by` to the named counters of the pod's link until the fault ends."""
    link = simulation.network.link(simulation.pod(fault.pod).process)
    for counter in counters:
        setattr(link, counter, getattr(link, counter) + by)

    def end() -> None:
        for counter in counters:
            setattr(link, counter, getattr(link, counter) - by)
        simulation.network.heal(link)

    return end


def slow(simulation: "Simulation", fault: FaultPlan) -> End:
    """Each direction takes `amount` microseconds longer."""
    return _change_link(simulation, fault, "up_delay", "down_delay", by=fault.amount)


def slow_up(simulation: "Simulation", fault: FaultPlan) -> End:
    """The direction to the server takes `amount` microseconds longer."""
    return _change_link(simulation, fault, "up_delay", by=fault.amount)


def slow_down(simulation: "Simulation", fault: FaultPlan) -> End:
    """The direction to the pod takes `amount` microseconds longer."""
    return _change_link(simulation, fault, "down_delay", by=fault.amount)


def cut(simulation: "Simulation", fault: FaultPlan) -> None:
    """All connections of the pod are reset."""
    simulation.network.cut_all(simulation.pod(fault.pod).process)


def cut_in_reply(simulation: "Simulation", fault: FaultPlan) -> None:
    """Each connection of the pod is reset within its next reply, after `amount` bytes."""
    process = simulation.pod(fault.pod).process
    for connection in simulation.network.connections.values():
        if connection.thread.process is process:
            connection.cut_after = fault.amount


def reply_limit(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server cuts the connection before a reply of more than `amount` bytes, as an output-buffer limit does."""
    link = simulation.network.link(simulation.pod(fault.pod).process)
    link.reply_limit = max(200, fault.amount)

    def end() -> None:
        link.reply_limit = None

    return end


# -- faults of the server ----------------------------------------------------------------------------------------------


def server_down(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server ends and starts again with all its data."""
    network = simulation.network
    network.refusals += 1
    _restart(simulation)

    def end() -> None:
        network.refusals -= 1

    return end


def lost_writes(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server crashes, and starts again without the writes of the last `duration`."""
    keys, begin = simulation.dump(), simulation.ledger.now

    def end() -> None:
        _restart(simulation)
        simulation.restore(keys, begin)

    return end


def _restart(simulation: "Simulation") -> None:
    """Cut all connections, and change the run id of the server."""
    simulation.network.cut_all()
    simulation.server.incarnation += 1


def failover(simulation: "Simulation", fault: FaultPlan) -> End:
    """A failover to a replica that lags by a part of `duration`. The old primary rejects writes until then."""
    keys, begin, server = simulation.dump(), simulation.ledger.now, simulation.server
    is_readonly = False

    def become_readonly() -> None:
        nonlocal is_readonly
        is_readonly = True
        server.inspect("REPLICAOF", "127.0.0.1", "1")
        for client_id in list(server.parked):
            server.end_parked_read(client_id, b"-UNBLOCKED force unblock from blocking operation, role changed\r\n")

    simulation.loop.after(fault.duration // 2, become_readonly)

    def end() -> None:
        if is_readonly:
            server.inspect("REPLICAOF", "NO", "ONE")
        _restart(simulation)
        simulation.restore(keys, begin)

    return end


def empty_replica(simulation: "Simulation", fault: FaultPlan) -> None:
    """A failover to an empty replica."""
    _restart(simulation)
    simulation.restore({}, 0.0)


def write_pause(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server holds writes, as a manual failover does with CLIENT PAUSE WRITE."""
    server = simulation.server
    server.write_pauses += 1

    def end() -> None:
        server.write_pauses -= 1
        server.resume_writes()

    return end


def max_clients(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server refuses new connections because of `maxclients`."""
    network = simulation.network
    network.full += 1

    def end() -> None:
        network.full -= 1

    return end


def out_of_memory(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server has reached `maxmemory`, and rejects writes that need memory."""
    return _set_option(simulation, "maxmemory", "1", "0")


def no_replicas(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server has too few replicas, and rejects all writes with NOREPLICAS."""
    return _set_option(simulation, "min-replicas-to-write", "1", "0")


def _set_option(simulation: "Simulation", name: str, value: str, default: str) -> End:
    simulation.server.set_option(name, value)
    return lambda: simulation.server.set_option(name, default)


def eval_refused(simulation: "Simulation", fault: FaultPlan) -> End:
    """An administrator removes the permission for EVAL, and grants it again."""
    simulation.server.inspect("ACL", "SETUSER", "default", "-eval", "-evalsha")
    return lambda: simulation.server.inspect("ACL", "SETUSER", "default", "+eval", "+evalsha")


def misconf(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server cannot save its data, and rejects all writes with MISCONF."""
    error = b"-MISCONF Errors writing to the AOF file: No space left on device\r\n"
    return _refuse(simulation, lambda name: error if name in WRITE_COMMANDS else None)


def loading(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server restarts, and rejects all commands while it loads its data."""
    _restart(simulation)
    return _refuse(simulation, lambda _name: b"-LOADING Redis is loading the dataset in memory\r\n")


def _refuse(simulation: "Simulation", refuse: Callable[[bytes], bytes | None]) -> End:
    server = simulation.server
    server.refusals.append(refuse)
    return lambda: server.refusals.remove(refuse)


def clock_jump(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server's clock differs by `duration` or by `amount`, the greater of both, for a while."""
    offset = max(fault.duration, fault.amount)
    simulation.server.clock_offset += offset

    def end() -> None:
        simulation.server.clock_offset -= offset

    return end


POD_FAULTS: tuple[Start, ...] = (
    *(crash, node_loss, sigterm, container_restart, restart_listening, twin, freeze, gil_held, loop_blocked),
    *(memory_error, memory_error_in_loop, no_new_threads, late_timers),
    *(partition, partition_up, partition_down, slow, slow_up, slow_down, cut, cut_in_reply, reply_limit),
)
SERVER_FAULTS: tuple[Start, ...] = (
    *(server_down, lost_writes, failover, empty_replica, write_pause, max_clients, out_of_memory, no_replicas),
    *(eval_refused, misconf, loading, clock_jump),
)
