"""Choice of the faults of one simulation while it runs: each starts at an await point that it has not hit yet."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from random import Random

from tests.simulation.await_points import AwaitPoint
from tests.simulation.coverage import POD_FAULT_NAMES, Coverage, Pair, suspended_at
from tests.simulation.fault_effects import has_effect
from tests.simulation.plan import SECOND, FaultPlan
from tests.simulation.pod import Pod
from tests.simulation.seeds import further_fault
from tests.simulation.simulation import Simulation

MAX_FAULTS = (4, 12, 24)

GAPS = (SECOND // 1000, SECOND // 10, SECOND // 2, 2 * SECOND)
"""Choices of the virtual time between the starts of two faults."""


class FaultChooser:
    """Starts the fault that hits most missing pairs, as soon as a task is suspended at the point of a missing pair.

    `on_choice` is called with each fault. The seed with these faults repeats the simulation.
    """

    def __init__(
        self,
        simulation: Simulation,
        random: Random,
        missing: Iterable[Pair],
        coverage: Coverage,
        on_choice: Callable[[FaultPlan], object],
    ) -> None:
        self._simulation, self._random, self._coverage, self._on_choice = simulation, random, coverage, on_choice
        self._missing: defaultdict[AwaitPoint, set[str]] = defaultdict(set)
        for point, kind in missing:
            self._missing[point].add(kind)
        self._left, self._gap = self._random.choice(MAX_FAULTS), self._random.choice(GAPS)
        self._next_at = self._random.choice([0, self._random.randrange(6 * SECOND)])
        simulation.triggers.on_step = self._on_step

    def _on_step(self, pod: Pod, points: list[AwaitPoint], tasks: Collection[list[AwaitPoint]]) -> None:
        for point in points:
            self._coverage.points[point] += 1
        now = self._simulation.microseconds
        if not self._left or now < self._next_at:
            return
        wanted = sorted({kind for each in tasks for point in each for kind in self._missing.get(point, ())})
        if not wanted:
            return
        self._next_at = now + self._gap
        if fault := self._best(pod, tasks, wanted):
            self._left -= 1
            self._on_choice(fault)
            self._simulation.start_at_point(None, fault)
            for point, kind in self._coverage.pairs:
                self._missing[point].discard(kind)

    def _best(self, pod: Pod, tasks: Collection[list[AwaitPoint]], wanted: list[str]) -> FaultPlan | None:
        """Return the fault that hits most missing pairs. None if no wanted fault has an effect now."""
        here = suspended_at(self._simulation, pod.process)
        everywhere = here.union(*(suspended_at(self._simulation, each.process) for each in self._simulation.all_pods))

        def gain(kind: str) -> int:
            hit = here if kind in POD_FAULT_NAMES else everywhere
            return sum(kind in self._missing.get(point, ()) for point in hit)

        self._random.shuffle(wanted)
        innermost_first = [point for points in tasks for point in reversed(points)]
        for kind in sorted(wanted, key=gain, reverse=True):
            point = next(each for each in innermost_first if kind in self._missing[each])
            fault = further_fault(kind, self._simulation.microseconds, pod.instance, point.name)
            if has_effect(self._simulation, fault):
                return fault
        return None
