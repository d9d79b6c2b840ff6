"""Counts the messages that start twice although their pod is alive, for each kind of disturbance."""

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from benchmarks.results import table
from tests.cluster import cgroups
from tests.reliability.acceptance.group import Group, Instructions, NotReached
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

Fault = Callable[[Group], None]
"""Injects a fault, and returns when the fault is over."""


class Holder(Enum):
    """Pods that hold the messages when the fault starts."""

    FIRST_POD = "the first pod holds all messages, and half of them run; its peers are idle"
    ALL_PODS = "three quarters of the messages run in all pods, and the others are unread"
    NONE = "the pods are idle, and the fault adds the messages"


@dataclass(frozen=True, eq=False)
class Case:
    """Disturbance of live pods."""

    name: str
    inject: Fault
    seconds: float
    """Duration of the fault. The handlers run for about as long."""
    occupies: Mapping[str, str] = field(default_factory=dict)
    """Instructions of one message of the first pod, which occupies its process."""
    holder: Holder = Holder.ALL_PODS
    is_promised: bool = True
    """False if messages may start twice, and the measurement only counts them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the server."""
    is_delayed: bool = False
    """True if the pods reach the server through a proxy that can delay data."""


@dataclass(frozen=True)
class Result:
    """Result of one repetition."""

    twice: int
    unsettled: str
    """Description of the messages that were not settled in time. Empty if there are none."""


# -- faults --------------------------------------------------------------------------------------------------------


def _occupy(group: Group) -> None:
    """Let one message occupy its process, and wait until this message has ended."""
    group.trigger()
    _wait_for_occupier(group)


def _wait_for_occupier(group: Group) -> None:
    occupier = group.occupiers[0]
    group.wait(lambda: any(line[1] == occupier for line in group.ledger.lines("done")), "the process is occupied", 150)


def _occupy_and(act: Callable[[Group], None]) -> Fault:
    """Return a fault that acts 2 s after a message has begun to occupy its process."""

    def inject(group: Group) -> None:
        group.trigger()
        time.sleep(2)
        act(group)
        _wait_for_occupier(group)

    return inject


def _restart_server(group: Group) -> None:
    group.server.kill()
    group.server.start()


def _cut_first_pod(group: Group) -> None:
    group.cut(group.connections_of(group.pods["pod-a"]))


def _cut_one_connection_each_second(seconds: float) -> Fault:
    def inject(group: Group) -> None:
        for _ in range(int(seconds)):
            connections = group.connections_of(group.pods["pod-a"])
            group.cut(random.sample(connections, min(1, len(connections))))
            time.sleep(1)

    return inject


def _cut_all_repeatedly(times: int, pause: float) -> Fault:
    def inject(group: Group) -> None:
        for _ in range(times):
            group.cut_all()
            time.sleep(pause)

    return inject


def _pause_writes(seconds: float) -> Fault:
    def inject(group: Group) -> None:
        group.client.client_pause(int(seconds * 1000), all=False)
        time.sleep(seconds)

    return inject


def _reach_maxclients(seconds: float) -> Fault:
    def inject(group: Group) -> None:
        clients = group.client.info("clients")
        assert isinstance(clients, dict)
        group.client.config_set("maxclients", clients["connected_clients"])
        group.add(MESSAGES, _long_messages(seconds))
        time.sleep(seconds)
        group.client.config_set("maxclients", 10_000)

    return inject


def _limit_cpu(share: float, seconds: float) -> Fault:
    """Give each pod a share of one CPU, as a container's CPU limit does."""

    def inject(group: Group) -> None:
        names = []
        try:
            for pod in group.pods.values():
                names.append(f"streamconsumer-{uuid.uuid4().hex[:8]}")
                cgroups.limit_cpu(names[-1], share).write_text(str(pod.pid))
            time.sleep(seconds)
        finally:
            for pod in group.pods.values():
                with suppress(OSError):
                    (cgroups.root_of("cpu") / "cgroup.procs").write_text(str(pod.pid))
            for name in names:
                cgroups.remove(name)

    return inject


def _delay(each_way: float, seconds: float) -> Fault:
    def inject(group: Group) -> None:
        assert isinstance(group.proxy, DelayProxy)
        group.proxy.delay_seconds = each_way
        time.sleep(seconds)
        group.proxy.delay_seconds = 0

    return inject


CASES = [
    Case("GIL held for 20 s", _occupy, 20, {"gil": "20"}, holder=Holder.FIRST_POD),
    Case("event loop blocked for 50 s", _occupy, 50, {"block": "50"}, holder=Holder.FIRST_POD),
    Case("CPU quota of 5 % for 40 s", _limit_cpu(0.05, 40), 40),
    Case("server delay of 5 s each way for 40 s", _delay(5, 40), 40, is_delayed=True),
    Case("write pause of 10 s", _pause_writes(10), 10),
    Case("maxclients reached for 15 s", _reach_maxclients(15), 15, holder=Holder.NONE),
    Case(
        "one connection of a busy pod cut every second",
        _cut_one_connection_each_second(15),
        15,
        holder=Holder.FIRST_POD,
    ),
    Case("all connections of all pods cut at once", _cut_all_repeatedly(1, 5), 5),
    Case(
        "server restart, GIL held for 10 s",
        _occupy_and(_restart_server),
        10,
        {"gil": "10"},
        holder=Holder.FIRST_POD,
        options=DURABLE,
    ),
    Case(
        "all connections of one pod cut, GIL held for 10 s",
        _occupy_and(_cut_first_pod),
        10,
        {"gil": "10"},
        holder=Holder.FIRST_POD,
        is_promised=False,
    ),
]


# -- measurement ---------------------------------------------------------------------------------------------------


def run_case(case: Case, fork_server: ForkServer, folder: Path) -> Result:
    """Handle 100 messages during the fault. Returns the number of messages that started more than once."""
    concurrency = "50" if case.holder is Holder.FIRST_POD else "25"
    capacity = {"CONCURRENCY": concurrency, "BATCH_COUNT": str(MESSAGES), "DELIVERY_TIMEOUT": "10m"}
    with Group(fork_server, folder, case.options, **capacity) as group, _proxy(group, case):
        _hold_messages(group, case)
        time.sleep(SETTLE_SECONDS)
        case.inject(group)
        try:
            group.ledger.wait_settled(group.client, END_TIMEOUT_SECONDS, group.logs)
            unsettled = ""
        except AssertionError as error:
            unsettled = str(error)
        return Result(sum(len(starts) > 1 for starts in group.starts().values()), unsettled)


def _hold_messages(group: Group, case: Case) -> None:
    """Start the pods and let them hold the messages."""
    instructions = _long_messages(SETTLE_SECONDS + case.seconds)
    url = group.proxy.url if group.proxy else ""
    if case.holder is Holder.FIRST_POD:
        group.start_pod(PODS[0], url)
        group.let_prefetch(PODS[0])
        group.add(MESSAGES // 4, instructions)
        if case.occupies:
            group.occupiers = group.add(1, lambda _: case.occupies)
        group.add(MESSAGES - MESSAGES // 4 - len(group.occupiers), instructions)
        group.wait(lambda: group.pending_of(PODS[0]) == MESSAGES, "the first pod does not hold all messages")
    for name in PODS:
        if name not in group.pods:
            group.start_pod(name, url)
    group.wait(lambda: group.blocked_reads() == len(PODS), "the pods do not wait for messages")
    if case.holder is Holder.ALL_PODS:
        group.add(MESSAGES, instructions)


def _long_messages(seconds: float) -> Instructions:
    """Return instructions of messages that run for up to `seconds`."""
    return lambda _: {"ms": str(round(random.uniform(0.3, 1.0) * seconds * 1000))}


@contextmanager
def _proxy(group: Group, case: Case) -> Iterator[None]:
    if not case.is_delayed:
        yield
        return
    with DelayProxy(group.server.host, group.server.port) as group.proxy:
        yield


def measure_started_twice(cases: Sequence[Case], repetitions: int, folder: Path) -> tuple[str, bool]:
    """Run each case several times. Returns the report, and True if no message started twice in a promised case."""
    with ForkServer(shortens_pauses=False) as fork_server, ThreadPoolExecutor(PARALLEL) as pool:

        def run(job: tuple[Case, int]) -> Result | Exception:
            case, number = job
            began = time.monotonic()
            try:
                result = run_case(case, fork_server, folder / f"{cases.index(case)}-{number}")
            except (NotReached, OSError) as error:
                print(f"{case.name}, repetition {number}: {error}", flush=True)
                return error
            seconds = time.monotonic() - began
            print(f"{case.name}, repetition {number}: {result.twice} started twice ({seconds:.0f} s)", flush=True)
            if result.unsettled:
                print(result.unsettled, flush=True)
            return result

        jobs = list(itertools.product(cases, range(repetitions)))
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    rows, is_met = [], True
    for case in cases:
        runs = [results[case, number] for number in range(repetitions)]
        done = [each for each in runs if isinstance(each, Result)]
        twice = [each.twice for each in done]
        unsettled = sum(bool(each.unsettled) for each in done)
        is_kept = not unsettled and len(done) == repetitions and (not any(twice) or not case.is_promised)
        is_met &= is_kept
        verdict = ("yes" if is_kept else "**no**") if case.is_promised else "counted only"
        rows.append([case.name, str(len(done)), " ".join(map(str, twice)), str(unsettled), verdict])
    head = [
        "disturbance",
        "repetitions",
        f"of {MESSAGES} messages started twice",
        "repetitions with unsettled messages",
        "0",
    ]
    return f"messages that started twice, {len(PODS)} pods with default settings\n\n{table(head, rows)}", is_met
