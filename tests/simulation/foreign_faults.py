"""Faults that administrators, producers and other programs cause with their commands. See `faults` for their form."""

from typing import TYPE_CHECKING

from streamconsumer.redis_client.keys import COMPANION_SUFFIXES, group_key
from tests.simulation.faults import POD_FAULTS, SERVER_FAULTS, End, Start, removed
from tests.simulation.ledger import SNAPSHOT_SECONDS
from tests.simulation.loop import Process
from tests.simulation.plan import FaultPlan
from tests.simulation.pod import GROUP, STREAM
from tests.simulation.server import to_dict

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

BINARY_CONSUMER = b"worker-\xff\xfe"

OTHER_STREAM = "{orders}:old"

SCHEDULE = group_key(STREAM, GROUP, "postponed")

AFTER_LOSS_SECONDS = 10.0
"""Time after the loss of a group in which acknowledgements are lost."""

NEW_LIFE_NUMBERS = 10_000
"""Distance between the numbers of two messages with the same id in two lives of a stream."""

MAX_TRIMMED = 2_000

TRIMMED_NUMBER = 500_000
"""Number of the first message behind many trimmed entries."""


def group_destroyed(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP DESTROY. The engine restores the group from its snapshot."""
    _lose_group(simulation)
    simulation.foreign("group_destroyed", "XGROUP", "DESTROY", STREAM, GROUP)


def _lose_group(simulation: "Simulation", name: str = "group_destroyed") -> None:
    now, begin = simulation.ledger.now, simulation.snapshot_times[-1] if simulation.snapshot_times else 0.0
    if simulation.has_been_calm and not any(pod.manager for pod in simulation.plan.pods):
        begin = max(begin, now - SNAPSHOT_SECONDS)
    simulation.ledger.allow_reruns(begin, now + AFTER_LOSS_SECONDS)
    simulation.ledger.on_group_lost(begin)
    for record in simulation.ledger.records.values():  # only the schedule still contains the postponed entries
        if record.state == "postponed" and not simulation.server.inspect("ZSCORE", SCHEDULE, record.entry_id):
            record.give_up()
    simulation.ledger.on_foreign(name)


def group_recreated(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP DESTROY, followed by XGROUP CREATE at the end of the stream."""
    _lose_group(simulation, "group_recreated")
    simulation.ledger.on_foreign("group_recreated", is_skip=True)
    records = simulation.ledger.records.values()
    unsaved = [each.entry_id for each in records if each.is_unsaved and each.state == "owned"]
    simulation.ledger.on_consumer_deleted(_holders(simulation, unsaved))
    simulation.server.administer("XGROUP", "DESTROY", STREAM, GROUP)
    simulation.server.administer("XGROUP", "CREATE", STREAM, GROUP, "$")


def consumer_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP DELCONSUMER for the pod's consumer."""
    consumer = simulation.pod(fault.pod).consumer
    ids = simulation.pending_ids(consumer)
    holders = _holders(simulation, [each.decode() for each in ids], consumer)
    simulation.foreign("consumer_deleted", "XGROUP", "DELCONSUMER", STREAM, GROUP, consumer, ids=ids)
    simulation.ledger.on_consumer_deleted(holders)


def _holders(simulation: "Simulation", ids: list[str], consumer: str = "") -> dict[str, Process | None]:
    """Return the process that has each entry in flight, if its consumer name is `consumer` or if none is given.

    A pod with a user's own manager cannot make an entry pending again."""
    holders = {
        message_id: pod.process
        for pod in simulation.all_pods
        if consumer in {pod.consumer, ""} and not pod.has_ended and pod.processor and not pod.plan.manager
        for message_id in pod.processor._pipeline.in_flight.entries
    }
    return {each: holders.get(each) for each in ids}


def stream_trimmed(simulation: "Simulation", fault: FaultPlan) -> None:
    """A producer trims the stream to at most `amount` modulo 5 entries."""
    length = simulation.server.inspect("XLEN", STREAM)
    excess = max(0, length - fault.amount % 5) if isinstance(length, int) else 0
    if excess:
        ids = [line[0] for line in simulation.server.inspect("XRANGE", STREAM, "-", "+", "COUNT", excess)]
        simulation.on_trimmed(ids)
        simulation.foreign("stream_trimmed", "XTRIM", STREAM, "MAXLEN", fault.amount % 5, ids=ids)


def stream_renamed(simulation: "Simulation", fault: FaultPlan) -> End:
    """The stream is renamed, and renamed back."""
    for record in simulation.ledger.records.values():
        if record.state == "orphaned" and record.holder is not None:
            record.give_up()  # its holder drops the entries of the stream
    _lose_group(simulation, "stream_renamed")
    simulation.foreign("stream_renamed", "RENAME", STREAM, OTHER_STREAM)
    renamed_at = simulation.ledger.now

    def end() -> None:
        if simulation.snapshot_times and simulation.snapshot_times[-1] > renamed_at:
            simulation.snapshot_times.clear()  # the snapshot describes the other stream
        _lose_group(simulation, "stream_renamed")
        if simulation.server.inspect("EXISTS", OTHER_STREAM):
            simulation.server.administer("DEL", STREAM)
            simulation.foreign("stream_renamed", "RENAME", OTHER_STREAM, STREAM)
            simulation.ledger.on_replaced()

    return end


def stream_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """DEL of the stream."""
    _lose_group(simulation, "stream_deleted")
    simulation.foreign("stream_deleted", "DEL", STREAM)


def stream_recreated(simulation: "Simulation", fault: FaultPlan) -> End:
    """The stream is deleted, and its producer adds other messages with the same ids until the fault ends."""
    entries = simulation.server.inspect("XRANGE", STREAM, "-", "+")
    stream_deleted(simulation, fault)
    simulation.ledger.on_recreated()
    lines = entries if isinstance(entries, list) else []
    for index, (entry_id, fields) in enumerate(lines, 1):
        pairs = to_dict(fields)
        message = (entry_id.decode(), int(pairs[b"n"]) + NEW_LIFE_NUMBERS, pairs[b"key"].decode())
        simulation.loop.after(fault.duration * index // len(lines), simulation.add, *message)
    return lambda: None


def schedule_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """DEL of the sorted set that contains when postponed entries are due."""
    simulation.server.administer("DEL", SCHEDULE)


def companion_deleted(simulation: "Simulation", fault: FaultPlan) -> None:
    """DEL of one companion key."""
    suffix = COMPANION_SUFFIXES[fault.amount % len(COMPANION_SUFFIXES)]
    simulation.server.administer("DEL", group_key(STREAM, GROUP, suffix))
    if suffix == "last-known":
        simulation.snapshot_times.clear()


def foreign_claim(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program claims all pending entries, and dies."""
    _claim(simulation, b"other-program", simulation.pending_ids())


def foreign_claim_one(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program claims one pending entry, and dies."""
    ids = simulation.pending_ids()
    _claim(simulation, b"other-program", ids[fault.amount % len(ids) :][:1] if ids else [])


def binary_claim(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program with a consumer name that is not UTF-8 claims all pending entries, and dies."""
    _claim(simulation, BINARY_CONSUMER, simulation.pending_ids())


def _claim(simulation: "Simulation", consumer: bytes, ids: list[bytes]) -> None:
    if ids:
        simulation.foreign("foreign_claim", "XCLAIM", STREAM, GROUP, consumer, 0, *ids, "JUSTID", ids=ids)


def foreign_ack(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program acknowledges all pending entries."""
    ids = simulation.pending_ids()
    if ids:
        simulation.ledger.settle(ids)
        now = simulation.ledger.now
        simulation.ledger.allow_reruns(now, now)  # a pod makes the entries that it has in flight pending again
        simulation.foreign("foreign_ack", "XACK", STREAM, GROUP, *ids, ids=ids)


def foreign_set_id(simulation: "Simulation", fault: FaultPlan) -> None:
    """XGROUP SETID to the start of the stream, so that all entries are delivered again."""
    simulation.ledger.allow_reruns(0.0, simulation.ledger.now + AFTER_LOSS_SECONDS)
    simulation.ledger.on_group_lost(0.0)
    simulation.foreign("foreign_set_id", "XGROUP", "SETID", STREAM, GROUP, "0")


def binary_consumer(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program with a consumer name that is not UTF-8 joins the group."""
    simulation.server.administer("XGROUP", "CREATECONSUMER", STREAM, GROUP, BINARY_CONSUMER)


def many_consumers(simulation: "Simulation", fault: FaultPlan) -> None:
    """Another program uses a new consumer name for each message, `amount` names in total."""
    create = ("XGROUP", "CREATECONSUMER", STREAM, GROUP)
    simulation.server.execute_all([(*create, f"worker-{number}") for number in range(fault.amount)])


def trimmed_backlog(simulation: "Simulation", fault: FaultPlan) -> None:
    """The pod crashes with `amount` trimmed entries, at most `MAX_TRIMMED`, and one live entry in its pending list."""
    server, pod, count = simulation.server, simulation.pod(fault.pod), min(fault.amount, MAX_TRIMMED)
    if pod.has_ended or isinstance(server.inspect("XPENDING", STREAM, GROUP), Exception):
        return
    replies = server.execute_all([("XADD", STREAM, "*", "n", 0, "key", "")] * count)
    if any(isinstance(reply, Exception) for reply in replies):
        return
    simulation.add("*", TRIMMED_NUMBER + len(simulation.ledger.records), "", is_quiet=True)
    server.inspect("XREADGROUP", "GROUP", GROUP, pod.consumer, "STREAMS", STREAM, ">")
    server.inspect("XDEL", STREAM, *replies)
    pod.crash()
    simulation.network.cut_all(pod.process)
    simulation.replace(pod)


FOREIGN_FAULTS: tuple[Start, ...] = (
    *(group_destroyed, group_recreated, consumer_deleted, stream_trimmed, stream_renamed, stream_deleted),
    *(stream_recreated, schedule_deleted, companion_deleted, foreign_claim, foreign_claim_one, binary_claim),
    *(foreign_ack, foreign_set_id, binary_consumer, trimmed_backlog),
)

FAULTS: dict[str, Start] = {
    each.__name__: each for each in (*POD_FAULTS, *SERVER_FAULTS, *FOREIGN_FAULTS, removed, many_consumers)
}
"""All faults by name."""

COMMON_FAULTS = tuple(each.__name__ for each in (*POD_FAULTS, *SERVER_FAULTS, *FOREIGN_FAULTS))
"""Faults of plans without a scenario."""
