"""Reports of the command `python -m tests.simulation`: the summary of many seeds, and the story of one."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.plan import SECOND, FaultPlan, Plan
from tests.simulation.seeds import Outcome

MAX_SHOWN_SEEDS = 8


@dataclass
class Summary:
    """Outcomes of many simulations so far."""

    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all simulations."""
        return sum(outcome.cpu_seconds for outcome in self.outcomes)

    @property
    def failures(self) -> list[Outcome]:
        """Outcomes with violations, those with the fewest steps first."""
        failures = (outcome for outcome in self.outcomes if not outcome.result.is_ok)
        return sorted(failures, key=lambda outcome: (outcome.result.steps, outcome.seed))

    @property
    def by_invariant(self) -> dict[str, list[Outcome]]:
        """Outcomes with violations by invariant."""
        found: dict[str, list[Outcome]] = {}
        for outcome in self.failures:
            for invariant in sorted({each.invariant for each in outcome.result.violations}):
                found.setdefault(invariant, []).append(outcome)
        return dict(sorted(found.items()))

    def figures(self) -> dict[str, Any]:
        """Return the speed of the simulation."""
        cpu_seconds = self.cpu_seconds or 1.0
        results = [outcome.result for outcome in self.outcomes]
        messages, steps = sum(each.messages for each in results), sum(each.steps for each in results)
        return {
            "simulations": len(results),
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "virtual_seconds": round(sum(each.virtual_seconds for each in results)),
            "messages": messages,
            "steps": steps,
            "messages_per_second_and_core": round(messages / cpu_seconds, 1),
            "steps_per_second_and_core": round(steps / cpu_seconds),
        }

    def to_json(self) -> str:
        """Return the summary as JSON."""
        violations = {
            invariant: [f"{outcome.server} {outcome.seed}" for outcome in outcomes]
            for invariant, outcomes in self.by_invariant.items()
        }
        return json.dumps({**self.figures(), "violations": violations}, indent=1)

    def figure_lines(self) -> Iterable[str]:
        """Yield the speed of the simulation as text."""
        figures = self.figures()
        yield (
            f"{figures['simulations']} simulations in {figures['seconds']} s ({figures['cpu_seconds']} s of CPU time): "
            f"{figures['messages']} messages, {figures['steps']} steps, {figures['virtual_seconds']} virtual seconds"
        )
        yield (
            f"per second and core: {figures['messages_per_second_and_core']} messages, "
            f"{figures['steps_per_second_and_core']} steps"
        )

    def lines(self) -> Iterable[str]:
        """Yield the lines of the summary."""
        yield from self.figure_lines()
        if not self.failures:
            yield "no violations"
            return
        yield f"{'violated invariant':28} {'seeds':>5}  the shortest seeds"
        for invariant, outcomes in self.by_invariant.items():
            seeds = ", ".join(each.seed for each in outcomes[:MAX_SHOWN_SEEDS])
            yield f"{invariant:28} {len(outcomes):5}  {seeds}{', …' if len(outcomes) > MAX_SHOWN_SEEDS else ''}"
        shortest = self.failures[0]
        yield ""
        for violation in shortest.result.violations[:3]:
            yield f"seed {shortest.seed} on {shortest.server}: {violation.invariant}: {violation.text}"
        yield f"replay: {replay_command(shortest.seed, shortest.server)}"


def replay_command(seed: str, server: str) -> str:
    """Return the command that repeats a simulation."""
    return f"make simulate SEED={seed} SERVER={server}"


def plan_lines(plan: Plan) -> Iterable[str]:
    """Yield what a plan does, in the order of time."""
    for pod in plan.pods:
        options = (
            f"concurrency {pod.concurrency}{', batch' if pod.is_batch else ''}"
            f"{', ordering key' if pod.has_ordering_key else ''}, max_deliveries {pod.max_deliveries}, "
            f"timeout {pod.timeout_seconds}"
        )
        yield f"{pod.start_at / SECOND:9.3f} s  {pod.name} starts; handler {pod.handler}, {options}"
    events = [(each.at, f"message {each.number} (key {each.key!r}) is added") for each in plan.messages]
    events += [(each.at, _fault_text(each)) for each in plan.faults]
    for at, text in sorted(events):
        yield f"{at / SECOND:9.3f} s  {text}"


def _fault_text(fault: FaultPlan) -> str:
    duration = f" for {fault.duration / SECOND:.3f} s" if fault.duration else ""
    point = f" as soon as a task is suspended at {fault.point}" if fault.point else ""
    return f"fault {fault.kind}{duration}{f' on {fault.pod}' if fault.pod else ''}, amount {fault.amount}{point}"
