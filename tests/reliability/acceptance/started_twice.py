"""Counts the messages that start twice although their pod is alive, for each kind of disturbance."""

import itertools
import random
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import table
from tests.cluster import cgroups
from tests.reliability.acceptance.group import Group, Instructions, retry_until_held
from tests.reliability.faults import DURABLE
from tests.reliability.fork_server import ForkServer
from tests.reliability.proxy import DelayProxy

MESSAGES = 100
PODS = ("pod-a", "pod-b", "pod-c")
PARALLEL = 6
"""Number of groups that run at the same time. The groups mostly wait."""
SETTLE_SECONDS = 4.0
"""Time from the start of the pods to the fault: the pods have checked each other at least once."""
END_TIMEOUT_SECONDS = 180.0
NEW_LINE = "\n"


class Holder(Enum):
    """Pods that hold the messages when the fault starts."""

    FIRST_POD = "the first pod holds all messages, and half of them run; its peers are idle"
    ALL_PODS = "each pod runs a third of the messages, unless a quarter of the messages is still unread"
    NONE = "the pods are idle, and the fault adds the messages"


@dataclass(frozen=True, eq=False)
class Case:
    """Disturbance of live pods."""

    name: str
    inject: "Fault"
    seconds: float
    """Duration of the fault."""
    holder: Holder = Holder.ALL_PODS
    occupies: Mapping[str, str] = field(default_factory=dict)
    """Instructions of one message of the first pod, which occupies its process."""
    is_promised: bool = True
    """False if messages may start twice, and the measurement only counts them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the server."""
    is_delayed: bool = False
    """True if the pods reach the server through a proxy that can delay data."""


@dataclass
class Run:
    """Repetition of a case."""

    case: Case
    group: Group
    instructions: Instructions
    """Instructions of the messages."""
    proxy: DelayProxy | None = None
    """Proxy between the pods and the server, if the case delays data."""
    occupier: str = ""
    """Number of the message that occupies its process."""


Fault = Callable[[Run], None]
"""Injects a fault, and returns when the fault is over."""


@dataclass(frozen=True)
class Result:
    """Result of one repetition."""

    twice: int
    unsettled: str
    """Description of the messages that were not settled in time. Empty if there are none."""


# -- faults --------------------------------------------------------------------------------------------------------


def _occupy(run: Run, act: Callable[[Group], None] = lambda _: None) -> None:
    """Let one message occupy its process, act 2 s later, and wait until this message has ended."""
    run.group.trigger()
    time.sleep(2)
    act(run.group)
    done = run.group.ledger.lines
    run.group.wait(lambda: any(line[1] == run.occupier for line in done("done")), "the process is occupied", 150)


def _restart_server(group: Group) -> None:
    group.server.kill()
    group.server.start()


def _cut_first_pod(group: Group) -> None:
    group.cut(group.connections_of(group.pods[PODS[0]]))


def _cut_one_connection_each_second(run: Run) -> None:
    for _ in range(int(run.case.seconds)):
        connections = run.group.connections_of(run.group.pods[PODS[0]])
        run.group.cut(random.sample(connections, min(1, len(connections))))
        time.sleep(1)


def _cut_all(run: Run) -> None:
    run.group.cut_all()
    time.sleep(run.case.seconds)


def _pause_writes(run: Run) -> None:
    run.group.client.client_pause(int(run.case.seconds * 1000), all=False)
    time.sleep(run.case.seconds)


def _freeze_first_pod(run: Run) -> None:
    """Stop a pod as a debugger or a paused virtual machine does. Its connections stay open."""
    pod = run.group.pods[PODS[0]]
    pod.signal(signal.SIGSTOP)
    time.sleep(run.case.seconds)
    pod.signal(signal.SIGCONT)


def _freeze_server(run: Run) -> None:
    run.group.server.pause()
    time.sleep(run.case.seconds)
    run.group.server.resume()


def _reach_maxclients(run: Run) -> None:
    """Allow no more clients than the connected ones, and add the messages."""
    clients: Any = run.group.client.info("clients")
    run.group.client.config_set("maxclients", clients["connected_clients"])
    run.group.add(MESSAGES, run.instructions)
    time.sleep(run.case.seconds)
    run.group.client.config_set("maxclients", 10_000)


def _limit_cpu(run: Run, pods: Sequence[str] = PODS) -> None:
    """Limit each of these pods to 5 % of one CPU, as a container's CPU limit does."""
    limited = [(run.group.pods[name].pid, f"streamconsumer-{uuid.uuid4().hex[:8]}") for name in pods]
    try:
        for pid, group in limited:
            cgroups.limit_cpu(group, 0.05).write_text(str(pid))
        time.sleep(run.case.seconds)
    finally:
        for pid, group in limited:
            with suppress(OSError):  # the pod has ended
                (cgroups.root_of("cpu") / "cgroup.procs").write_text(str(pid))
            cgroups.remove(group)


def _delay(run: Run, each_way: float) -> None:
    assert run.proxy
    run.proxy.delay_seconds = each_way
    time.sleep(run.case.seconds)
    run.proxy.delay_seconds = 0


ONE_POD = Holder.FIRST_POD
CASES = [
    Case("GIL held for 20 s", _occupy, 20, ONE_POD, {"gil": "20"}),
    Case("event loop blocked for 50 s", _occupy, 50, ONE_POD, {"block": "50"}),
    Case("pod frozen for 20 s", _freeze_first_pod, 20, ONE_POD),
    Case("CPU quota of 5 % for all pods, 40 s", _limit_cpu, 40),
    Case("CPU quota of 5 % for one pod, 40 s", partial(_limit_cpu, pods=PODS[:1]), 40, ONE_POD),
    Case("server delay of 5 s each way, 40 s", partial(_delay, each_way=5), 40, is_delayed=True),
    Case("server delay of 1.1 s each way, 40 s", partial(_delay, each_way=1.1), 40, is_delayed=True),
    Case("server frozen for 10 s", _freeze_server, 10),
    Case("write pause of 10 s", _pause_writes, 10),
    Case("maxclients reached, 15 s", _reach_maxclients, 15, Holder.NONE),
    Case("one connection of a busy pod cut every second, 15 s", _cut_one_connection_each_second, 15, ONE_POD),
    Case("all connections of all pods cut at once", _cut_all, 5),
    Case(
        "server restart while the GIL is held for 10 s",
        partial(_occupy, act=_restart_server),
        10,
        ONE_POD,
        {"gil": "10"},
        options=DURABLE,
    ),
    Case(
        "all connections of one pod cut while the GIL is held for 10 s",
        partial(_occupy, act=_cut_first_pod),
        10,
        ONE_POD,
        {"gil": "10"},
        is_promised=False,
    ),
]


# -- measurement ---------------------------------------------------------------------------------------------------


def run_case(case: Case, fork_server: ForkServer, folder: Path, *, is_calm: bool) -> Result:
    """Handle 100 messages during the fault. Returns the number of messages that started more than once.

    If `is_calm` is True, all messages run until the fault is over, so that no acknowledgement shows that a pod is
    alive, and each pod has room for the messages of its peers. Otherwise, messages end and start during the fault.
    """
    shortest = 1.0 if is_calm else 0.3
    seconds = SETTLE_SECONDS + case.seconds

    def instructions(_: int) -> dict[str, str]:
        return {"ms": str(round(random.uniform(shortest, 1.1) * seconds * 1000))}

    concurrency = "50" if is_calm or case.holder is ONE_POD else "25"
    capacity = {"CONCURRENCY": concurrency, "BATCH_COUNT": str(MESSAGES), "DELIVERY_TIMEOUT": "10m"}
    with ExitStack() as stack:
        run = Run(case, stack.enter_context(Group(fork_server, folder, case.options, **capacity)), instructions)
        if case.is_delayed:
            run.proxy = stack.enter_context(DelayProxy(run.group.server.host, run.group.server.port))
        _hold_messages(run)
        time.sleep(SETTLE_SECONDS)
        case.inject(run)
        unsettled = ""
        try:
            run.group.ledger.wait_settled(run.group.client, END_TIMEOUT_SECONDS, run.group.logs)
        except AssertionError as error:
            unsettled = str(error)
            (folder / "unsettled").write_text(unsettled)
        return Result(sum(len(starts) > 1 for starts in run.group.starts().values()), unsettled)


def _hold_messages(run: Run) -> None:
    """Start the pods and let them hold the messages."""
    group, case = run.group, run.case
    url = run.proxy.url if run.proxy else ""
    if case.holder is Holder.FIRST_POD:
        group.start_pod(PODS[0], url)
        group.let_prefetch(PODS[0])
        group.add(MESSAGES // 4, run.instructions)
        if case.occupies:
            (run.occupier,) = group.add(1, lambda _: {**case.occupies, "only_in": PODS[0]})
        group.add(MESSAGES - MESSAGES // 4 - len(case.occupies), run.instructions)
        group.wait_held(PODS[0], MESSAGES)
    for name in PODS:
        if name not in group.pods:
            group.start_pod(name, url)
    group.wait(lambda: group.blocked_reads() == len(PODS), "the pods do not wait for messages")
    if case.holder is Holder.ALL_PODS:
        group.add(MESSAGES, run.instructions)


def measure_started_twice(cases: Sequence[Case], repetitions: int, folder: Path) -> tuple[str, bool]:
    """Run each case several times. Returns the report, and True if no message started twice in a promised case."""
    with ForkServer(shortens_pauses=False) as fork_server, ThreadPoolExecutor(PARALLEL) as pool:

        def run(job: tuple[Case, int]) -> Result:
            case, number = job

            def measure(own_folder: Path) -> Result:
                return run_case(case, fork_server, own_folder, is_calm=number % 2 == 0)

            began = time.monotonic()
            result = retry_until_held(measure, folder / f"{cases.index(case)}-{number}")
            figures = f"{result.twice} started twice, {result.unsettled.partition(NEW_LINE)[0] or 'all settled'}"
            print(f"{case.name}, repetition {number}: {figures}; {time.monotonic() - began:.0f} s", flush=True)
            return result

        jobs = list(itertools.product(cases, range(repetitions)))
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    rows, is_met = [], True
    for case in cases:
        runs = [results[case, number] for number in range(repetitions)]
        unsettled = sum(bool(each.unsettled) for each in runs)
        is_kept = not any(each.twice for each in runs)
        is_met &= not unsettled and (is_kept or not case.is_promised)
        verdict = ("yes" if is_kept else "**no**") if case.is_promised else "counted only"
        rows.append([case.name, " ".join(str(each.twice) for each in runs), str(unsettled), verdict])
    head = ["disturbance", f"of {MESSAGES} messages started twice", "repetitions with unsettled messages", "none"]
    facts = f"{len(PODS)} pods with default settings, {repetitions} repetitions of each disturbance"
    return f"messages that started twice; {facts}\n\n{table(head, rows)}", is_met
