"""The parts of the simulation: virtual time, the server's clock, blocking reads, and the names of await points."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest

from streamconsumer.processor.consumer import claimer, heartbeat
from tests.simulation.activity import Activity
from tests.simulation.loop import START_MICROSECONDS, Process, SimulationLoop, SimulationStalled, context_of
from tests.simulation.plan import SECOND, FaultPlan, MessagePlan, Plan, PodPlan
from tests.simulation.real_server import RealServer
from tests.simulation.records import EntryRecord
from tests.simulation.server import SimulatedServer
from tests.simulation.simulation import Simulation, simulate
from tests.simulation.trace import operation_name, script_names


def start(loop: SimulationLoop, process: Process, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return context_of(process.thread("main")).run(loop.create_task, main)


@pytest.fixture
def loop() -> Any:
    loop = SimulationLoop(Random(0))
    yield loop
    loop.dispose()


def test_time_jumps_to_the_next_timer(loop: SimulationLoop) -> None:
    times: list[float] = []

    async def main(seconds: float) -> None:
        await asyncio.sleep(seconds)
        times.append(round(loop.time() - START_MICROSECONDS / 1e6, 3))

    tasks = [start(loop, Process(str(seconds)), main(seconds)) for seconds in (3600, 0.5, 20)]
    loop.run_until(lambda: all(task.done() for task in tasks), max_steps=100)
    assert times == [0.5, 20, 3600]


def test_held_thread_runs_nothing_while_another_process_runs(loop: SimulationLoop) -> None:
    names: list[str] = []

    async def main(name: str) -> None:
        names.append(name)

    held, free = Process("held"), Process("free")
    held.thread("main").holds = 1
    tasks = [start(loop, process, main(process.name)) for process in (held, free)]
    loop.run_until(tasks[1].done, max_steps=100)
    assert names == ["free"]
    held.thread("main").holds = 0
    loop.run_until(tasks[0].done, max_steps=100)
    assert names == ["free", "held"]


def test_killed_process_runs_no_finally_block(loop: SimulationLoop) -> None:
    events: list[str] = []

    async def main() -> None:
        try:
            events.append("started")
            await asyncio.sleep(1)
        finally:
            events.append("finally")

    process = Process("killed")
    start(loop, process, main())
    loop.run_until(lambda: bool(events), max_steps=100)
    loop.kill(process)
    with pytest.raises(SimulationStalled, match="no callback"):
        loop.run_until(lambda: False, max_steps=100)
    assert events == ["started"]


def test_set_of_tasks_is_in_the_order_in_which_the_tasks_were_created(loop: SimulationLoop) -> None:
    async def main() -> None:
        """Do nothing."""

    tasks = [loop.create_task(main()) for _ in range(50)]
    assert list({*reversed(tasks)}) == tasks
    loop.run_until(tasks[-1].done, max_steps=100)


@pytest.mark.parametrize("flavour", ["redis-7.0", "redis-6.2", "valkey-9.1"])
def test_server_time_is_the_virtual_time(
    flavour: str, loop: SimulationLoop, real_server: Callable[[str], RealServer]
) -> None:
    real = real_server(flavour)
    real.reset()
    server = SimulatedServer(real, loop)
    server.administer("XADD", "s", "*", "n", "1")
    server.administer("XGROUP", "CREATE", "s", "g", "0")
    entry_id = server.administer("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")[0][1][0][0]
    assert entry_id == b"%d-0" % (START_MICROSECONDS // 1000)
    loop.microseconds += 90_000_000
    assert server.inspect("TIME") == [b"%d" % (START_MICROSECONDS // 1_000_000 + 90), b"0"]
    assert server.inspect("XPENDING", "s", "g", "-", "+", 10) == [[entry_id, b"c", 90_000, 1]]


def test_blocking_read_gets_the_entry_that_arrives(
    loop: SimulationLoop, real_server: Callable[[str], RealServer]
) -> None:
    real = real_server("redis-7.0")
    real.reset()
    server = SimulatedServer(real, loop)
    replies: list[bytes] = []
    server.administer("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    server.open(1)
    read = b"XREADGROUP GROUP g c BLOCK 1000 STREAMS s >".split()
    server.receive(1, read, replies.append)
    assert replies == []
    server.administer("XADD", "s", "1-0", "n", "1")
    assert b"1-0" in replies.pop()
    server.receive(1, read, replies.append)
    loop.run_until(lambda: bool(replies), max_steps=10)
    assert (replies, loop.microseconds - START_MICROSECONDS) == ([b"*-1\r\n"], 1_000_005)
    server.close_all()


@pytest.mark.parametrize(
    "rejection",
    [
        pytest.param(("CONFIG", "SET", "maxmemory", "1"), id="out of memory"),
        pytest.param(("CONFIG", "SET", "min-replicas-to-write", "1"), id="no replicas"),
        pytest.param(("REPLICAOF", "127.0.0.1", "1"), id="read-only replica"),
    ],
)
@pytest.mark.parametrize("flavour", ["redis-7.0", "redis-6.2", "valkey-9.1"])
def test_failover_restores_all_keys_although_the_server_rejects_writes(
    flavour: str, rejection: tuple[str, ...], real_server: Callable[[str], RealServer]
) -> None:
    real = real_server(flavour)
    simulation = Simulation(Plan(0, (PodPlan("pod-a", 0, "instant"),), (), ()), real)
    try:
        simulation.server.inspect("SET", "kept", "1")
        keys = simulation.dump()
        simulation.server.inspect("SET", "lost", "1")
        simulation.server.inspect(*rejection)
        simulation.restore(keys, 0.0)
        assert simulation.server.inspect("KEYS", "*") == [b"kept"]
        assert isinstance(simulation.server.inspect("SET", "new", "1"), hiredis.ReplyError)
    finally:
        simulation.loop.dispose()
        real.reset()


@pytest.mark.usefixtures("quiet_engine")
def test_attempt_that_was_counted_immediately_before_its_process_ended_is_lost(
    real_server: Callable[[str], RealServer],
) -> None:
    """The handler of message 3 ends the process while a free slot starts message 4."""
    pod = PodPlan("pod-a", SECOND, "process_exit", concurrency=4, max_deliveries=1)
    simulation = Simulation(
        Plan(0, (pod,), tuple(MessagePlan(number, 1) for number in range(5)), ()), real_server("redis-7.0")
    )
    try:
        assert simulation.run().violations == ()
        record = simulation.ledger.records[4]
        assert (len(record.runs), record.lost_attempts, simulation.ledger.dead_letters[4]) == (0, 1, ["Crashed"])
    finally:
        simulation.loop.dispose()


def test_attempt_is_lost_only_if_its_process_has_counted_it_and_cannot_release_the_entry() -> None:
    process = Process("pod-a")
    counted = EntryRecord("1-0", 1, state="owned", owner="pod-a", reader=process, counted_by={process})
    assert counted.lost_attempts == 0
    counted.on_stopped(process, "pod-b")
    assert (counted.lost_attempts, counted.reader) == (0, process)
    counted.on_stopped(process, "pod-a")
    assert (counted.lost_attempts, counted.reader) == (1, None)
    only_read = EntryRecord("1-0", 1, state="owned", owner="pod-a", reader=process)
    process.is_dead = True
    assert only_read.lost_attempts == 0


@pytest.mark.usefixtures("quiet_engine")
def test_pod_is_not_idle_while_it_claims_the_trimmed_entries_of_a_dead_pod(
    real_server: Callable[[str], RealServer],
) -> None:
    """After a restart of the server, pods claim these entries as late as 30 s after their last renewal."""
    pods = tuple(PodPlan(name, 0, "instant") for name in ("pod-a", "pod-b"))
    faults = (
        FaultPlan("trimmed_backlog", 2 * SECOND, 0, "pod-a", 2000),
        FaultPlan("server_down", 2 * SECOND + 1, SECOND, "pod-a"),
        FaultPlan("foreign_set_id", 4 * SECOND, 0, "pod-a"),
    )
    plan = Plan(0, pods, (MessagePlan(0, SECOND), MessagePlan(1, 25 * SECOND)), faults)
    result = simulate(plan, real_server("redis-7.0"))
    assert (result.violations, result.virtual_seconds > 32) == ((), True)


class FakeServer:
    """Server with the open connections 1 and 2."""

    run_id = b"r"

    def is_open(self, client_id: int) -> bool:
        return client_id in {1, 2}


@pytest.mark.parametrize(
    ("registration", "is_connected"),
    [
        pytest.param("", True, id="not registered"),
        pytest.param("1 r token 1,9 uid", True, id="one registered connection is open"),
        pytest.param("1 r token 8,9 uid", False, id="only an unregistered connection is open"),
        pytest.param("1 r other 8,9 uid", True, id="another process has the name"),
        pytest.param("1 previous token 8,9 uid", True, id="registered before a restart of the server"),
    ],
)
def test_only_connections_that_other_pods_know_prove_that_a_process_lives(
    registration: str, is_connected: bool, loop: SimulationLoop
) -> None:
    process = Process("pod-a")
    network: Any = SimpleNamespace(connections={1: SimpleNamespace(thread=process.thread("main"))})
    server: Any = FakeServer()
    activity = Activity(loop, network, server)
    activity.on_executed(1)
    activity.on_registered(process, registration.replace("other", "token"), registration)
    assert activity.is_connected(process) is is_connected


async def fail(*_arguments: Any) -> None:
    raise KeyError("trimmed")


@pytest.mark.usefixtures("quiet_engine")
@pytest.mark.parametrize(
    ("owner", "method"),
    [
        pytest.param(claimer.PendingClaimer, "find_claimable", id="logged by the claim loop"),
        pytest.param(claimer.PendingClaimer, "save_snapshot", id="logged by the snapshot loop"),
        pytest.param(heartbeat.HeartbeatThread, "_beat", id="ends the heartbeat thread"),
    ],
)
def test_error_that_the_engine_does_not_expect_is_a_violation(
    owner: type, method: str, monkeypatch: pytest.MonkeyPatch, real_server: Callable[[str], RealServer]
) -> None:
    monkeypatch.setattr(owner, method, fail)
    plan = Plan(0, (PodPlan("pod-a", 0, "slow"),), (MessagePlan(4, SECOND),), ())
    violations = simulate(plan, real_server("redis-7.0")).violations
    assert ("unexpected_error", "KeyError('trimmed') in fail") in [
        (each.invariant, each.text.partition(" s: ")[2]) for each in violations
    ]


@pytest.mark.usefixtures("quiet_engine")
@pytest.mark.parametrize("kind", ["memory_error_in_loop", "server_down", "eval_refused", "partition"])
def test_error_of_a_fault_or_a_handler_is_no_violation(kind: str, real_server: Callable[[str], RealServer]) -> None:
    fault = FaultPlan(kind, 2 * SECOND, SECOND, "pod-a")
    plan = Plan(0, (PodPlan("pod-a", 0, "failing"),), (MessagePlan(1, SECOND), MessagePlan(2, 3 * SECOND)), (fault,))
    assert simulate(plan, real_server("redis-7.0")).violations == ()


def test_scripts_of_the_engine_have_names() -> None:
    names = script_names()
    assert {"RENEW", "START_ATTEMPT", "POSTPONE", "CLAIM", "COMMIT"} <= set(names.values())
    script = next(text for text, name in names.items() if name == "RENEW")
    assert operation_name([b"EVAL", script, b"1", b"s"]) == "RENEW"
    assert operation_name([b"xgroup", b"create"]) == "XGROUP CREATE"
