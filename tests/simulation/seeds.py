"""Runs the simulations of many seeds in worker processes, each with a real server of its own."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.util import Finalize
from random import Random

from tests.cluster.redis_servers import FLAVOURS, Flavour
from tests.simulation.directed_scenarios import DIRECTED
from tests.simulation.foreign_faults import COMMON_FAULTS
from tests.simulation.plan import SECOND, FaultPlan, Plan
from tests.simulation.real_server import RealServer
from tests.simulation.records import Result
from tests.simulation.scenarios import generate, generate_intense
from tests.simulation.simulation import simulate

FURTHER_FAULT_DURATION = 3 * SECOND
"""Duration of a fault that is part of a seed."""

FURTHER_FAULT_AMOUNTS = {"cut_in_reply": 5, "reply_limit": 300, "trimmed_backlog": 20, "companion_deleted": 1}
OTHER_AMOUNT = 200_000
"""Amounts of the faults that are part of a seed, by kind, and of those of all other kinds."""


GENERATORS = {"": generate, "intense": generate_intense}
"""Functions that make random plans, by the name in the seed."""


@dataclass(frozen=True)
class Outcome:
    """Result of one seed on one server."""

    seed: str
    server: str
    result: Result
    cpu_seconds: float
    """CPU time of the worker process and its server."""


def flavour_of(name: str) -> Flavour:
    """Return the server program with this name."""
    return next(each for each in FLAVOURS if each.name == name)


def plan_of(seed: str, fault_kinds: tuple[str, ...] = COMMON_FAULTS) -> Plan:
    """Return the plan of a seed: a number, or the name of a directed scenario and a number, as in `drain:17`.

    The plan of `intense:17` is random and has at least 20 messages and 5 faults.
    Further faults follow, as in `17+crash@2500000/pod-a~0/consumer/leases.py:Leases.renew:1`. This fault kills the
    first process of `pod-a` as soon as one of its tasks is suspended at the first `await` of `Leases.renew`, at the
    earliest after 2.5 virtual seconds.
    """
    base, *further = seed.split("+")
    name, _, number = base.rpartition(":")
    if name in GENERATORS:
        plan = GENERATORS[name](int(number), fault_kinds)
    else:
        plan = DIRECTED[name](int(number), Random(base))
    faults = [*plan.faults, *map(_fault_of, further)]
    return replace(plan, faults=tuple(sorted(faults, key=lambda fault: fault.at)))


def further_fault(kind: str, microseconds: int, pod: str, point: str) -> FaultPlan:
    """Return a fault that starts at an await point."""
    amount = FURTHER_FAULT_AMOUNTS.get(kind, OTHER_AMOUNT)
    return FaultPlan(kind, microseconds, FURTHER_FAULT_DURATION, pod, amount, point)


def with_fault(seed: str, fault: FaultPlan) -> str:
    """Return a seed with a further fault, which `further_fault` has returned."""
    return f"{seed}+{fault.kind}@{fault.at}/{fault.pod}/{fault.point}"


def _fault_of(text: str) -> FaultPlan:
    kind, _, place = text.partition("@")
    microseconds, pod, point = place.split("/", 2)
    return further_fault(kind, int(microseconds), pod, point)


def run_seeds(
    seeds: Iterator[str],
    servers: list[str],
    *,
    fault_kinds: tuple[str, ...],
    processes: int,
    end_at: float,
    on_outcome: Callable[[Outcome], object],
) -> None:
    """Run the seeds on each server until the monotonic time `end_at`. Calls `on_outcome` with each outcome."""
    jobs = ((seed, server) for seed in seeds for server in servers)
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=initialize_worker) as pool:
        running: set[Future[Outcome]] = set()
        while True:
            while len(running) < 2 * processes and time.monotonic() < end_at and (job := next(jobs, None)):
                running.add(pool.submit(run_seed, *job, fault_kinds))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                on_outcome(each.result())


_servers: dict[str, RealServer] = {}
"""Servers of this worker process by name."""


def initialize_worker() -> None:
    """Prepare a process that runs simulations: disable the log, and exempt the modules from garbage collection."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()  # The collection at the end of each simulation then skips the modules.


def server_of_worker(name: str) -> RealServer:
    """Return the server of this worker process, which ends with the process."""
    if name not in _servers:
        _servers[name] = RealServer(flavour_of(name))
        Finalize(None, _servers[name].stop, exitpriority=1)
    return _servers[name]


def run_seed(seed: str, server: str, fault_kinds: tuple[str, ...]) -> Outcome:
    """Run a seed in this process, which `initialize_worker` has prepared."""
    real = server_of_worker(server)
    begin = time.process_time() + real.cpu_seconds()
    result = simulate(plan_of(seed, fault_kinds), real)
    return Outcome(seed, server, result, time.process_time() + real.cpu_seconds() - begin)
