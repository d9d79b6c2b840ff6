"""Faults that start at an await point: when a task of a pod is suspended there for the first time after a moment.

Such a fault hits the same operation when the rest of the plan changes. A fault at a moment would miss it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulation.await_points import AwaitPoint, points_of
from tests.simulation.loop import SimulationTask
from tests.simulation.plan import FaultPlan
from tests.simulation.pod import Pod

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


class Triggers:
    """Starts the faults of a plan that wait for an await point, until `disarm` is called."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._waiting = [fault for fault in simulation.plan.faults if fault.point]
        self.on_suspended: Callable[[Pod, list[AwaitPoint]], object] | None = None
        """Called with a pod and the await points at which one of its tasks is suspended, the outermost point first."""

    def arm(self) -> None:
        """Observe the tasks, if a fault waits for an await point or if `on_suspended` is set."""
        if self._waiting or self.on_suspended:
            self._simulation.loop.after_step = self._after_step

    def disarm(self) -> None:
        """Start no further fault."""
        self._simulation.loop.after_step = None

    def _after_step(self, task: SimulationTask) -> None:
        pod = self._simulation.instances.get(task.process.name)
        if pod is None or task.done():
            return
        points = points_of(task.get_coro())
        if self.on_suspended:
            self.on_suspended(pod, points)
        for fault in self._due(pod, points):
            self._waiting.remove(fault)
            self._simulation.start_at_point(fault, replace(fault, at=self._simulation.microseconds))

    def _due(self, pod: Pod, points: list[AwaitPoint]) -> list[FaultPlan]:
        """Return the faults that wait for one of the points."""
        names = {point.name for point in points} if self._waiting else ()
        return [
            fault
            for fault in self._waiting
            if fault.pod == pod.instance and fault.at <= self._simulation.microseconds and fault.point in names
        ]
