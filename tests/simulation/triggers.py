"""Faults that start at an await point: as soon as a task of a pod is suspended there, from a moment on.

Such a fault hits the same operation when the rest of the plan changes. A fault at a moment would miss it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
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
        self._suspended: defaultdict[Pod, dict[SimulationTask, list[AwaitPoint]]] = defaultdict(dict)
        """Tasks of each pod that have not ended, with the await points at which they are suspended."""
        self.on_step: Callable[[Pod, list[AwaitPoint], Collection[list[AwaitPoint]]], object] | None = None
        """Called after a step of a pod's task. The arguments are the pod, the await points at which the task is
        suspended, and the await points of all tasks of the pod. The outermost point of each task is the first."""

    def arm(self) -> None:
        """Observe the tasks, if a fault waits for an await point or if `on_step` is set."""
        if self._waiting or self.on_step:
            self._simulation.loop.after_step = self._after_step

    def disarm(self) -> None:
        """Start no further fault."""
        self._simulation.loop.after_step = None

    def _after_step(self, task: SimulationTask) -> None:
        pod = self._simulation.instances.get(task.process.name)
        if pod is None:
            return
        tasks = self._suspended[pod]
        if task.done():
            tasks.pop(task, None)
            return
        tasks[task] = points = points_of(task.get_coro())
        if self.on_step:
            self.on_step(pod, points, tasks.values())
        for fault in self._due(pod, tasks.values()):
            self._waiting.remove(fault)
            self._simulation.start_at_point(fault, replace(fault, at=self._simulation.microseconds))

    def _due(self, pod: Pod, tasks: Collection[list[AwaitPoint]]) -> list[FaultPlan]:
        """Return the faults that wait for one of the points of these tasks."""
        now = self._simulation.microseconds
        waiting = [fault for fault in self._waiting if fault.pod == pod.instance and fault.at <= now]
        names = {point.name for points in tasks for point in points} if waiting else ()
        return [fault for fault in waiting if fault.point in names]
