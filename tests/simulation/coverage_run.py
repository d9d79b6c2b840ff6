"""Runs simulations until each pair of an await point and a fault is reached, or has a reason why it is not.

Each simulation starts from a directed scenario or from a random plan, and chooses its faults among the missing pairs.
The scenario is the one that has recently reached most new pairs per second, or the one that most often reaches the
await point of some missing pair. Half of the latter simulations start faults only at this point, because faults at
other points would lead elsewhere.
"""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import reduce
from multiprocessing import get_context
from random import Random

from tests.simulation.await_points import AwaitPoint
from tests.simulation.coverage import Coverage, Pair
from tests.simulation.directed_scenarios import DIRECTED
from tests.simulation.fault_choice import FaultChooser
from tests.simulation.plan import FaultPlan
from tests.simulation.seeds import initialize_worker, plan_of, server_of_worker, with_fault
from tests.simulation.simulation import Simulation, simulate

NEW_SHARE = 0.3
"""Weight of the last simulation in the number of new pairs per second of a scenario."""

TARGETED_SHARE = 0.6
"""Share of the simulations whose scenario is chosen for the await point of a missing pair."""


@dataclass
class Scenario:
    """Known facts about a scenario. The scenario without a name makes random plans."""

    name: str
    runs: int = 0
    seconds: float = 0.0
    pairs_per_second: float = 0.0
    points: Counter[AwaitPoint] = field(default_factory=Counter)
    """Number of simulations that have reached an await point."""

    def next_seed(self) -> str:
        """Return the next seed."""
        self.runs += 1
        return f"{self.name}:{self.runs - 1}" if self.name else str(self.runs - 1)

    def add(self, found: Coverage, new: int, seconds: float) -> None:
        """Record a simulation that has reached `new` missing pairs."""
        self.seconds += seconds
        self.pairs_per_second += NEW_SHARE * (new / seconds - self.pairs_per_second)
        self.points.update(found.points.keys())


def cover(
    server: str,
    *,
    fault_kinds: tuple[str, ...],
    processes: int,
    seconds: float,
    on_progress: Callable[[Coverage, int], object] = lambda *_: None,
) -> Coverage:
    """Run simulations until no pair is missing or the time is over.

    Calls `on_progress` with the coverage and the number of missing pairs after each simulation.
    """
    coverage, end_at, random = Coverage(), time.monotonic() + seconds, Random(0)
    scenarios = [Scenario(name) for name in ("", *DIRECTED)]
    running: dict[Future[tuple[Coverage, float]], Scenario] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=initialize_worker) as pool:
        while True:
            missing = coverage.missing(fault_kinds)
            while missing and len(running) < processes and time.monotonic() < end_at:
                scenario, target = choose(scenarios, missing, random)
                wanted = [pair for pair in missing if target in {None, pair[0]}]
                running[pool.submit(_run, scenario.next_seed(), server, fault_kinds, wanted)] = scenario
            if not running:
                return coverage
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                scenario, (found, elapsed) = running.pop(future), future.result()
                scenario.add(found, sum(not coverage.pairs[pair] for pair in found.pairs), elapsed)
                coverage.add(found)
                on_progress(coverage, len(missing))


def choose(scenarios: list[Scenario], missing: list[Pair], random: Random) -> tuple[Scenario, AwaitPoint | None]:
    """Return the scenario of the next simulation, and the only await point at which its faults start.

    The point is None if faults start at all points."""
    if untried := [scenario for scenario in scenarios if not scenario.runs]:
        return untried[0], None
    if random.random() < TARGETED_SHARE:
        point, _ = random.choice(missing)
        if reaching := [scenario for scenario in scenarios if scenario.points[point]]:
            best = max(reaching, key=lambda scenario: scenario.points[point] / scenario.seconds)
            return best, random.choice([point, None])
        return random.choice(scenarios), None
    return max(scenarios, key=lambda scenario: scenario.pairs_per_second), None


def _run(seed: str, server: str, fault_kinds: tuple[str, ...], missing: list[Pair]) -> tuple[Coverage, float]:
    """Run one simulation. Returns what it has reached, and how many seconds it took."""
    coverage, begin = Coverage(runs=1), time.monotonic()
    faults: list[FaultPlan] = []

    def observe(simulation: Simulation) -> None:
        coverage.observe(simulation)
        FaultChooser(simulation, Random(f"{seed} faults"), missing, coverage, faults.append)

    result = simulate(plan_of(seed, fault_kinds), server_of_worker(server), observe=observe)
    for invariant in {violation.invariant for violation in result.violations}:
        coverage.violations[invariant] = reduce(with_fault, faults, seed)
        coverage.violating[invariant] = 1
    return coverage, time.monotonic() - begin
