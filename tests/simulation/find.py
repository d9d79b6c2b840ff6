"""Search for the known faults: measures how soon random seeds show each fault again, without its stored plan."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.simulation.foreign_faults import COMMON_FAULTS
from tests.simulation.regression import Regression
from tests.simulation.report import Summary
from tests.simulation.seeds import initialize_worker, plan_of, run_seed


@dataclass(frozen=True)
class Found:
    """First seed that shows a known fault."""

    regression: Regression
    seed: str
    cpu_seconds: float
    """CPU time of all seeds up to this one, of this process and its server."""


def find_faults(
    regressions: Sequence[Regression],
    seeds: Iterator[str],
    server: str,
    cpu_seconds: float,
    on_found: Callable[[Found], object] = lambda _found: None,
) -> tuple[list[Found], Summary]:
    """Run seeds in this process until each fault was found, or until the CPU time is used up."""
    initialize_worker()
    missing, found, summary = list(regressions), list[Found](), Summary()
    for seed in seeds:
        if not missing or summary.cpu_seconds >= cpu_seconds:
            break
        outcome, plan = run_seed(seed, server, COMMON_FAULTS), plan_of(seed)
        summary.outcomes.append(outcome)
        for regression in [each for each in missing if each.is_shown_by(plan, outcome.result.violations)]:
            missing.remove(regression)
            found.append(Found(regression, seed, summary.cpu_seconds))
            on_found(found[-1])
    return found, summary


def markdown_lines(regressions: Sequence[Regression], found: Sequence[Found]) -> Iterator[str]:
    """Yield a table of the faults, in the order in which they were found."""
    yield "| Fault | Seed | CPU seconds |"
    yield "|---|---|---|"
    for each in found:
        yield f"| {each.regression.name} | {each.seed} | {each.cpu_seconds:.0f} |"
    names = {each.regression.name for each in found}
    for regression in regressions:
        if regression.name not in names:
            yield f"| {regression.name} | not found | |"
