"""Faults that a simulation injects. Each function starts one kind of fault, and returns the function that ends it.

A fault that happens at one moment returns None.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from streamconsumer.redis_client.keys import COMPANION_SUFFIXES, group_key
from tests.simulation.loop import Process
from tests.simulation.plan import FaultPlan
from tests.simulation.pod import GROUP, STREAM

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

End = Callable[[], object]
Start = Callable[["Simulation", FaultPlan], End | None]

BINARY_CONSUMER = b"worker-\xff\xfe"

# -- faults of one pod -------------------------------------------------------------------------------------------------


def crash(simulation: "Simulation", fault: FaultPlan) -> None:
    """SIGKILL or an out-of-memory kill: the process ends, and its connections are closed."""
    pod = simulation.pod(fault.pod)
    pod.crash()
    simulation.network.cut_all(pod.process)
    simulation.replace(pod)


def node_loss(simulation: "Simulation", fault: FaultPlan) -> None:
    """The node disappears: the process ends, and the server does not notice it."""
    pod = simulation.pod(fault.pod)
    pod.crash()
    simulation.replace(pod)


def sigterm(simulation: "Simulation", fault: FaultPlan) -> None:
    """Kubernetes stops the pod, and starts another one."""
    pod = simulation.pod(fault.pod)
    pod.stop()
    simulation.replace(pod)


def freeze(simulation: "Simulation", fault: FaultPlan) -> End:
    """The process is stopped, as by SIGSTOP or a CPU limit."""
    return _hold(simulation.pod(fault.pod).process, ("main", "heartbeat"))


def gil_held(simulation: "Simulation", fault: FaultPlan) -> End:
    """A C extension holds the interpreter lock, so that no thread runs."""
    return _hold(simulation.pod(fault.pod).process, ("main", "heartbeat"))


def loop_blocked(simulation: "Simulation", fault: FaultPlan) -> End:
    """The handler blocks the event loop. The heartbeat thread goes on."""
    return _hold(simulation.pod(fault.pod).process, ("main",))


def _hold(process: Process, names: tuple[str, ...]) -> End:
    threads = [process.thread(name) for name in names]
    for thread in threads:
        thread.holds += 1

    def end() -> None:
        for thread in threads:
            thread.holds -= 1

    return end


def partition(simulation: "Simulation", fault: FaultPlan) -> End:
    """No byte reaches the server or the pod."""
    return _cut_link(simulation, fault, up=True, down=True)


def partition_up(simulation: "Simulation", fault: FaultPlan) -> End:
    """The pod's bytes do not reach the server."""
    return _cut_link(simulation, fault, up=True, down=False)


def partition_down(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server's bytes do not reach the pod."""
    return _cut_link(simulation, fault, up=False, down=True)


def _cut_link(simulation: "Simulation", fault: FaultPlan, *, up: bool, down: bool) -> End:
    link = simulation.network.link(simulation.pod(fault.pod).process)
    link.up_cuts += up
    link.down_cuts += down

    def end() -> None:
        link.up_cuts -= up
        link.down_cuts -= down
        simulation.network.heal(link)

    return end


def slow(simulation: "Simulation", fault: FaultPlan) -> End:
    """Each direction takes `amount` microseconds longer."""
    return _delay_link(simulation, fault, up=fault.amount, down=fault.amount)


def slow_up(simulation: "Simulation", fault: FaultPlan) -> End:
    """The direction to the server takes `amount` microseconds longer."""
    return _delay_link(simulation, fault, up=fault.amount, down=0)


def slow_down(simulation: "Simulation", fault: FaultPlan) -> End:
    """The direction to the pod takes `amount` microseconds longer."""
    return _delay_link(simulation, fault, up=0, down=fault.amount)


def _delay_link(simulation: "Simulation", fault: FaultPlan, *, up: int, down: int) -> End:
    link = simulation.network.link(simulation.pod(fault.pod).process)
    link.up_delay += up
    link.down_delay += down

    def end() -> None:
        link.up_delay -= up
        link.down_delay -= down

    return end


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


def late_timers(simulation: "Simulation", fault: FaultPlan) -> End:
    """Timers of the pod run up to `amount` microseconds late, and therefore in another order."""
    process = simulation.pod(fault.pod).process
    process.max_timer_delay = fault.amount

    def end() -> None:
        process.max_timer_delay = 0

    return end


# -- faults of the server ----------------------------------------------------------------------------------------------


def server_down(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server ends and starts again with all its data."""
    network = simulation.network
    network.refusals += 1
    network.cut_all()

    def end() -> None:
        network.refusals -= 1

    return end


def lost_writes(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server loses the writes of the last `duration`, as a failover to a lagging replica does."""
    snapshot = simulation.dump()

    def end() -> None:
        simulation.network.cut_all()
        simulation.restore(snapshot)

    return end


def empty_replica(simulation: "Simulation", fault: FaultPlan) -> None:
    """A failover to an empty replica."""
    simulation.network.cut_all()
    simulation.restore({})


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
    simulation.server.set_option("maxmemory", "1")
    return lambda: simulation.server.set_option("maxmemory", "0")


def clock_jump(simulation: "Simulation", fault: FaultPlan) -> End:
    """The server's clock differs by `duration` for a while."""
    simulation.server.clock_offset += fault.duration

    def end() -> None:
        simulation.server.clock_offset -= fault.duration

    return end


# -- commands of administrators and other programs ---------------------------------------------------------------------


def group_destroyed(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP DESTROY."""
    simulation.foreign("group_destroyed", "XGROUP", "DESTROY", STREAM, GROUP)


def group_recreated(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP DESTROY, followed by XGROUP CREATE at the end of the stream."""
    simulation.foreign("group_recreated", "XGROUP", "DESTROY", STREAM, GROUP)
    simulation.foreign("group_recreated", "XGROUP", "CREATE", STREAM, GROUP, "$")


def consumer_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP DELCONSUMER for the pod's consumer."""
    simulation.foreign("consumer_deleted", "XGROUP", "DELCONSUMER", STREAM, GROUP, simulation.pod(fault.pod).plan.name)


def stream_trimmed(simulation: "Simulation", fault: FaultPlan) -> None:
    """A producer trims the stream to at most `amount` modulo 5 entries."""
    simulation.foreign("stream_trimmed", "XTRIM", STREAM, "MAXLEN", fault.amount % 5)


def stream_renamed(simulation: "Simulation", fault: FaultPlan) -> End:
    """The stream is renamed, and renamed back."""
    simulation.foreign("stream_renamed", "RENAME", STREAM, "{orders}:old")

    def end() -> None:
        simulation.server.administer("DEL", STREAM)
        simulation.foreign("stream_renamed", "RENAME", "{orders}:old", STREAM)

    return end


def stream_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """DEL of the stream."""
    simulation.foreign("stream_deleted", "DEL", STREAM)


def stream_recreated(simulation: "Simulation", fault: FaultPlan) -> None:
    """The stream is deleted, and created again with the same ids."""
    entries = simulation.server.inspect("XRANGE", STREAM, "-", "+")
    simulation.foreign("stream_recreated", "DEL", STREAM)
    for entry_id, fields in entries if isinstance(entries, list) else ():
        simulation.foreign("stream_recreated", "XADD", STREAM, entry_id, *fields)


def schedule_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """DEL of the sorted set that contains when postponed entries are due."""
    simulation.server.administer("DEL", group_key(STREAM, GROUP, "postponed"))


def companion_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """DEL of one companion key."""
    suffix = COMPANION_SUFFIXES[fault.amount % len(COMPANION_SUFFIXES)]
    simulation.server.administer("DEL", group_key(STREAM, GROUP, suffix))


def foreign_claim(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program claims all pending entries, and dies."""
    ids = simulation.pending_ids()
    if ids:
        simulation.foreign("foreign_claim", "XCLAIM", STREAM, GROUP, "other-program", 0, *ids, "JUSTID", ids=ids)


def foreign_ack(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program acknowledges all pending entries."""
    ids = simulation.pending_ids()
    if ids:
        simulation.foreign("foreign_ack", "XACK", STREAM, GROUP, *ids, ids=ids)
        simulation.ledger.settle(ids)


def foreign_set_id(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP SETID to the start of the stream, so that all entries are delivered again."""
    simulation.foreign("foreign_set_id", "XGROUP", "SETID", STREAM, GROUP, "0")


def binary_consumer(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program with a consumer name that is not UTF-8 joins the group."""
    simulation.server.administer("XGROUP", "CREATECONSUMER", STREAM, GROUP, BINARY_CONSUMER)


FAULTS: dict[str, Start] = {
    each.__name__: each
    for each in (
        *(crash, node_loss, sigterm, freeze, gil_held, loop_blocked, partition, partition_up, partition_down),
        *(slow, slow_up, slow_down, cut, cut_in_reply, reply_limit, late_timers),
        *(server_down, lost_writes, empty_replica, write_pause, max_clients, out_of_memory, clock_jump),
        *(group_destroyed, group_recreated, consumer_deleted, stream_trimmed, stream_renamed, stream_deleted),
        *(stream_recreated, schedule_deleted, companion_deleted, foreign_claim, foreign_ack, foreign_set_id),
        binary_consumer,
    )
}
"""All faults by name."""

SILENCING = {
    *("freeze", "gil_held", "partition", "partition_up", "partition_down", "slow", "slow_up", "slow_down", "cut"),
    *("cut_in_reply", "reply_limit", "late_timers", "loop_blocked", "crash", "node_loss"),
    *("server_down", "lost_writes", "empty_replica", "write_pause", "max_clients", "out_of_memory", "clock_jump"),
}
"""Faults that can silence a live pod, so that another pod may claim its entries."""
