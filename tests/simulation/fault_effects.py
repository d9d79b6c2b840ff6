"""Conditions under which a fault changes something. A fault without an effect tests nothing."""

from typing import TYPE_CHECKING

from hiredis import ReplyError

from streamconsumer.redis_client.keys import COMPANION_SUFFIXES, group_key
from tests.simulation.plan import FaultPlan
from tests.simulation.pod import GROUP, STREAM
from tests.simulation.server import to_dict

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


def has_effect(simulation: "Simulation", fault: FaultPlan) -> bool:  # noqa: PLR0911 - one per condition
    """Return True if the fault would change something now. If it is a fault of a pod, the pod must exist."""
    server = simulation.server
    match fault.kind:
        case "sigterm":
            pod = simulation.pod(fault.pod)
            return not pod.has_ended and not pod.is_stopping
        case "restart_listening":
            return simulation.pod(fault.pod).can_restart
        case "cut" | "cut_in_reply":
            process = simulation.pod(fault.pod).process
            return any(each.thread.process is process for each in simulation.network.connections.values())
        case "group_destroyed" | "group_recreated" | "foreign_set_id":
            return GROUP.encode() in _names(simulation, "GROUPS", STREAM)
        case "consumer_deleted":
            return simulation.pod(fault.pod).consumer.encode() in _names(simulation, "CONSUMERS", STREAM, GROUP)
        case "binary_consumer" | "trimmed_backlog":
            return GROUP.encode() in _names(simulation, "GROUPS", STREAM)
        case "stream_renamed" | "stream_deleted" | "stream_recreated":
            return bool(server.inspect("EXISTS", STREAM))
        case "stream_trimmed":
            length = server.inspect("XLEN", STREAM)
            return isinstance(length, int) and length > fault.amount % 5
        case "schedule_deleted":
            return bool(server.inspect("EXISTS", group_key(STREAM, GROUP, "postponed")))
        case "companion_deleted":
            suffix = COMPANION_SUFFIXES[fault.amount % len(COMPANION_SUFFIXES)]
            return bool(server.inspect("EXISTS", group_key(STREAM, GROUP, suffix)))
        case "foreign_claim" | "foreign_claim_one" | "binary_claim" | "foreign_ack":
            return bool(simulation.pending_ids())
        case _:
            return True


def _names(simulation: "Simulation", *what: str) -> set[bytes]:
    """Return the names of the groups of a stream, or of the consumers of a group."""
    lines = simulation.server.inspect("XINFO", *what)
    return set() if isinstance(lines, ReplyError) else {to_dict(line)[b"name"] for line in lines}
