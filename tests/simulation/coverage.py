"""Coverage: which fault hit which await point of the engine, and which operation met an entry in which state.

First, the seeds run unchanged, and record when a task is suspended at each await point. Then each fault that has not
yet hit an await point is added to a seed at such a moment. Up to this moment, the run is the recorded one.
"""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import Any

from tests.simulation.await_points import AwaitPoint, all_points, points_of
from tests.simulation.faults import POD_FAULTS
from tests.simulation.loop import START_MICROSECONDS, Process, SimulationTask
from tests.simulation.plan import FaultPlan
from tests.simulation.seeds import initialize_worker, plan_of, server_of_worker, with_fault
from tests.simulation.server import Arguments
from tests.simulation.simulation import Simulation, simulate
from tests.simulation.trace import operation_name

STATES = ("unread", "owned", "postponed", "settled", "orphaned", "gone")

MAX_MOMENTS, MAX_MOMENTS_PER_SEED = 6, 2
"""Numbers of moments that are recorded per await point. The moments of the shortest simulations are preferred."""

RECORDED_SHARE = 0.25
"""Share of the time in which seeds run unchanged."""

POD_FAULT_NAMES = frozenset(each.__name__ for each in POD_FAULTS)

Pair = tuple[AwaitPoint, str]
Moment = tuple[int, str, int, str]
"""Number of steps of the seed, the seed, microseconds after its start, and the name of the pod."""

UNREACHED = {
    r": async with asyncio\.timeout": "starting and ending a timeout never suspends a task",
    r"_settle_success|_consumer\.ack\(": "an acknowledgement is buffered, which suspends no task",
    r": await .*(_close|_disconnect|\.close|\.aclose|\.disconnect)\(": "closing a connection suspends no task",
    r"^consumer/retention|\._trim|trimmer": "no plan has retention",
    r"StreamManager\.(create_group|read_events|ack_event)": "only if a user's code calls a StreamManager",
    r"clock_offset_ns|\._run_traced": "no plan has telemetry",
    r"_on_undecodable|_on_too_large": "each entry of a plan is small and valid",
}
"""Reasons why the simulation does not reach an await point, by a regular expression for its name."""


@dataclass
class Coverage:
    """Pairs and states that simulations have reached."""

    pairs: Counter[Pair] = field(default_factory=Counter)
    """How many times a fault started while a task was suspended at an await point."""
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many times an operation named an entry, by the state of the entry and the operation."""
    moments: defaultdict[AwaitPoint, list[Moment]] = field(default_factory=lambda: defaultdict(list))
    violations: dict[str, list[str]] = field(default_factory=dict)
    """Violated invariants by seed."""
    runs: int = 0

    def add(self, other: "Coverage") -> None:
        """Add what another simulation has reached."""
        self.runs += other.runs
        self.pairs += other.pairs
        self.operations += other.operations
        self.violations.update(other.violations)
        for point, moments in other.moments.items():
            self.moments[point] = sorted({*self.moments[point], *moments})[:MAX_MOMENTS]

    def missing(self, kinds: Iterable[str]) -> list[Pair]:
        """Return the pairs that no simulation has reached."""
        return [(point, kind) for kind in kinds for point in all_points() if not self.pairs[point, kind]]

    # -- recording of one simulation -----------------------------------------------------------------------------------

    def observe(self, simulation: Simulation, seed: str) -> None:
        """Record a simulation that is about to run."""

        def on_fault(fault: FaultPlan) -> None:
            is_for_pod = fault.kind in POD_FAULT_NAMES
            for pod in [simulation.pods[fault.pod]] if is_for_pod else simulation.pods.values():
                for point in _suspended_at(simulation, pod.process):
                    self.pairs[point, fault.kind] += 1

        def after_step(task: SimulationTask) -> None:
            if task.done():
                return
            for point in points_of(task.get_coro()):
                if len(self.moments[point]) < MAX_MOMENTS_PER_SEED:
                    after_start = simulation.loop.microseconds - START_MICROSECONDS
                    pod = task.process.name.partition("~")[0]
                    self.moments[point].append((simulation.loop.steps, seed, after_start, pod))

        def on_command(arguments: Arguments, reply: Any) -> None:
            named = {*arguments, *_all_bytes(reply)}
            name = operation_name(arguments)
            for record in simulation.ledger.records.values():
                if record.entry_id.encode() in named:
                    self.operations[record.state, name] += 1

        simulation.on_fault, simulation.on_command = on_fault, on_command
        simulation.loop.after_step = after_step

    # -- report --------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the tables as JSON."""
        return json.dumps(
            {
                "runs": self.runs,
                "pairs": sorted([str(point), kind, count] for (point, kind), count in self.pairs.items()),
                "operations": sorted([*pair, count] for pair, count in self.operations.items()),
            },
            indent=1,
        )

    @property
    def new_violations(self) -> dict[str, list[str]]:
        """Violated invariants by seed, without those that the seed violates without the further fault."""
        new = {}
        for seed, invariants in self.violations.items():
            base, is_longer, _ = seed.partition("+")
            known = self.violations.get(base, []) if is_longer else []
            if found := sorted(set(invariants) - set(known)):
                new[seed] = found
        return new

    def lines(self, kinds: tuple[str, ...]) -> Iterator[str]:
        """Yield both tables."""
        never = [point for point in all_points() if point not in self.moments]
        impossible = [point for point in never if _reason(point)]
        points = [point for point in all_points() if point not in impossible]
        missing = [(point, kind) for point, kind in self.missing(kinds) if point in points]
        total = len(points) * len(kinds)
        yield f"{self.runs} simulations: {total - len(missing)} of {total} pairs of await point and fault were reached"
        yield f"{len(impossible)} await points cannot be reached:"
        for point in impossible:
            yield f"  {point} ({_reason(point)})"
        yield f"{len(never) - len(impossible)} of the other {len(points)} await points were not reached:"
        for point in never:
            if point in points:
                yield f"  {point}"
        yield "pairs that were not reached although the await point was:"
        by_point: defaultdict[AwaitPoint, list[str]] = defaultdict(list)
        for point, kind in missing:
            if point in self.moments:
                by_point[point].append(kind)
        for point, absent in sorted(by_point.items()):
            yield f"  {point}: {', '.join(absent)}"
        yield ""
        yield f"{'operation':28}{''.join(f'{state:>11}' for state in STATES)}"
        for name in sorted({name for _, name in self.operations}):
            yield f"{name:28}{''.join(f'{self.operations[state, name]:11}' for state in STATES)}"


def _suspended_at(simulation: Simulation, process: Process) -> set[AwaitPoint]:
    return {point for task in simulation.loop.tasks_of(process) for point in points_of(task.get_coro())}


def _all_bytes(reply: Any) -> Iterator[bytes]:
    if isinstance(reply, bytes):
        yield reply
    elif isinstance(reply, list):
        for each in reply:
            yield from _all_bytes(each)


def _reason(point: AwaitPoint) -> str:
    """Return why the simulation cannot reach an await point. Empty if no reason is known."""
    return next((reason for pattern, reason in UNREACHED.items() if re.search(pattern, str(point))), "")


# -- running -----------------------------------------------------------------------------------------------------------


def cover(
    seeds: Iterator[str], server: str, *, fault_kinds: tuple[str, ...], processes: int, seconds: float
) -> Coverage:
    """Run seeds, then seeds with further faults, until all pairs are reached or the time is over."""
    coverage, begin = Coverage(), time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=initialize_worker) as pool:
        running: set[Future[Coverage]] = set()
        targets = _targets(coverage, seeds, fault_kinds, begin + RECORDED_SHARE * seconds)
        while time.monotonic() < begin + seconds:
            new_seeds = islice(targets, 2 * processes - len(running))
            running |= {pool.submit(_cover_one, seed, server, fault_kinds) for seed in new_seeds}
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                coverage.add(each.result())
        for each in running:
            coverage.add(each.result())
    return coverage


def _targets(coverage: Coverage, seeds: Iterator[str], kinds: tuple[str, ...], recorded_until: float) -> Iterator[str]:
    """Yield seeds, then seeds with a further fault at the moments that `coverage` contains by then."""
    for seed in seeds:
        yield seed
        if time.monotonic() > recorded_until:
            break
    for attempt in range(MAX_MOMENTS):
        for point, kind in coverage.missing(kinds):
            moments = coverage.moments.get(point, [])
            if attempt < len(moments) and not coverage.pairs[point, kind]:
                _, seed, microseconds, pod = moments[attempt]
                yield with_fault(seed, kind, microseconds, pod)


def _cover_one(seed: str, server: str, fault_kinds: tuple[str, ...]) -> Coverage:
    coverage = Coverage(runs=1)
    result = simulate(
        plan_of(seed, fault_kinds), server_of_worker(server), observe=lambda each: coverage.observe(each, seed)
    )
    moments = coverage.moments
    coverage.moments = defaultdict(list)
    if "+" not in seed:
        for point, found in moments.items():
            coverage.moments[point] = [(result.steps, *moment[1:]) for moment in found]
    if not result.is_ok:
        coverage.violations[seed] = sorted({violation.invariant for violation in result.violations})
    return coverage
