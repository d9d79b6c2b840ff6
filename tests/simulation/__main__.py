"""Simulates the engine with many seeds, or replays or minimises one seed. `docs/reliability.md` explains it."""

import argparse
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tests.cluster.errors import MissingTool
from tests.cluster.redis_servers import FLAVOURS
from tests.simulation.coverage import Coverage
from tests.simulation.coverage_run import cover
from tests.simulation.find import Found, find_faults, markdown_lines
from tests.simulation.foreign_faults import COMMON_FAULTS, FAULTS
from tests.simulation.minimiser import minimize
from tests.simulation.plan import Plan
from tests.simulation.real_server import RealServer
from tests.simulation.records import Result
from tests.simulation.regression import load_all, regression_json
from tests.simulation.report import Summary, plan_lines, replay_command
from tests.simulation.seeds import Outcome, flavour_of, initialize_worker, plan_of, run_seeds
from tests.simulation.simulation import simulate

DEFAULT_SECONDS = 60.0


def main() -> int:
    """Run the command. Returns 1 if a promise was violated."""
    options = _parse()
    if options.coverage:
        return _print_coverage(options)
    if options.find:
        return _find(options)
    if options.seed is None and options.plan is None:
        return _run_many(options)
    plan = plan_of(options.seed, options.faults) if options.seed else Plan.from_dict(_read_plan(options.plan))
    initialize_worker()
    with closing(RealServer(flavour_of(options.servers[0]))) as real:
        if options.minimize:
            return _minimize(plan, real, options)
        if options.repeat:
            return _repeat(plan, real, options.repeat)
        return _replay(plan, real)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, help="number of seeds, a range 100-199 or 100-, or intense:100-199")
    parser.add_argument("--seconds", type=float, help=f"end after this time (default: {DEFAULT_SECONDS:.0f}, or never)")
    parser.add_argument("--server", default=FLAVOURS[0].name, help=f"{', '.join(f.name for f in FLAVOURS)} or all")
    parser.add_argument("--faults", type=_faults, default=COMMON_FAULTS, help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="number of worker processes")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.add_argument("--coverage", action="store_true", help="add faults until each has hit each await point")
    parser.add_argument("--find", action="store_true", help="print the first seed that shows each known fault")
    parser.add_argument("--seed", help="replay one seed and print its trace")
    parser.add_argument("--plan", type=Path, help="replay the plan in this JSON file, which can be a regression case")
    parser.add_argument("--minimize", action="store_true", help="print the smallest plan with the same violation")
    parser.add_argument("--repeat", type=int, default=0, help="run the seed this many times and compare the hashes")
    options = parser.parse_args()
    names = [each.name for each in FLAVOURS]
    if options.server not in {*names, "all"}:
        parser.error(f"--server: found {options.server}, expected {', '.join(names)} or all")
    if options.coverage and options.seeds:
        parser.error("--coverage chooses the seeds itself: use it without --seeds")
    options.servers = names if options.server == "all" else [options.server]
    if options.seconds is None:
        options.seconds = DEFAULT_SECONDS if options.seeds is None else float("inf")
    return options


def _seeds(text: str) -> Iterator[str]:
    name, colon, numbers = text.rpartition(":")
    begin, dash, end = numbers.partition("-")
    if not dash:
        begin, end = "0", str(int(numbers) - 1)
    chosen = range(int(begin), int(end) + 1) if end else itertools.count(int(begin))
    return (f"{name}{colon}{number}" for number in chosen)


def _faults(text: str) -> tuple[str, ...]:
    kinds = tuple(filter(None, text.split(",")))
    if unknown := set(kinds) - set(FAULTS):
        raise argparse.ArgumentTypeError(f"found {', '.join(sorted(unknown))}, expected {', '.join(FAULTS)}")
    return kinds or COMMON_FAULTS


def _run_many(options: argparse.Namespace) -> int:
    summary, begin = Summary(), time.monotonic()

    def add(outcome: Outcome) -> None:
        summary.outcomes.append(outcome)
        summary.seconds = time.monotonic() - begin
        if sys.stderr.isatty():
            text = f"{len(summary.outcomes)} simulations, {len(summary.failures)} with violations"
            print(f"\r{text}, {summary.seconds:.0f} s ", end="", file=sys.stderr, flush=True)

    run_seeds(
        options.seeds or map(str, itertools.count()),
        options.servers,
        fault_kinds=options.faults,
        processes=options.processes,
        end_at=begin + options.seconds,
        on_outcome=add,
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(summary.to_json() if options.output == "json" else "\n".join(summary.lines()))
    return int(bool(summary.failures))


def _find(options: argparse.Namespace) -> int:
    """Search for the known faults in one process. `seconds` is CPU time."""
    regressions = [each for each in load_all() if not each.is_fixed]
    seeds, server = options.seeds or map(str, itertools.count()), options.servers[0]

    def show(found: Found) -> None:
        print(
            f"{found.regression.name}: seed {found.seed} after {found.cpu_seconds:.1f} s", file=sys.stderr, flush=True
        )

    found, summary = find_faults(regressions, seeds, server, options.seconds, show)
    print("\n".join([*markdown_lines(regressions, found), "", *summary.figure_lines()]))
    return int(len(found) < len(regressions))


def _print_coverage(options: argparse.Namespace) -> int:
    begin = time.monotonic()

    def show(coverage: Coverage, missing: int) -> None:
        seconds = time.monotonic() - begin
        print(f"\r{coverage.runs} simulations, {missing} pairs are missing, {seconds:.0f} s ", end="", file=sys.stderr)

    coverage = cover(
        options.servers[0],
        fault_kinds=options.faults,
        processes=options.processes,
        seconds=options.seconds,
        on_progress=show if sys.stderr.isatty() else lambda *_: None,
    )
    if options.output == "json":
        print(coverage.to_json(options.faults))
        return 0
    print("\n".join(coverage.lines(options.faults)), end="\n\n")
    for invariant, seed in sorted(coverage.violations.items()):
        count = coverage.violating[invariant]
        print(f"{count} simulations violate {invariant}: {replay_command(seed, options.servers[0])}")
    return 0


def _replay(plan: Plan, real: RealServer) -> int:
    """Print the plan, the trace, the violations and the hash."""
    print("\n".join(plan_lines(plan)), end="\n\n")
    result = simulate(plan, real, print)
    _print_result(result)
    return int(not result.is_ok)


def _print_result(result: Result) -> None:
    print()
    for violation in result.violations:
        print(f"violation of {violation.invariant}: {violation.text}")
    print(f"{len(result.violations)} violations in {result.steps} steps, {result.virtual_seconds:.3f} virtual seconds")
    print(f"hash of the trace: {result.trace_hash}")


def _repeat(plan: Plan, real: RealServer, times: int) -> int:
    hashes = {simulate(plan, real).trace_hash for _ in range(times)}
    print(f"{times} runs: {len(hashes)} different traces: {', '.join(sorted(hashes))}")
    return int(len(hashes) > 1)


def _minimize(plan: Plan, real: RealServer, options: argparse.Namespace) -> int:
    first = simulate(plan, real)
    if first.is_ok:
        print("the simulation violates no promise, so there is nothing to minimise")
        return 0
    invariant, end_at, runs = first.violations[0].invariant, time.monotonic() + options.seconds, 0

    def violates(smaller: Plan) -> bool:
        nonlocal runs
        runs += 1
        return time.monotonic() < end_at and invariant in _invariants(simulate(smaller, real))

    smallest = minimize(plan, violates)
    story: list[str] = []
    result = simulate(smallest, real, _without_commands(story.append))
    print(regression_json(smallest, invariant, options.servers[0]))
    text = [f"after {runs} simulations, this plan still violates {invariant}:", *plan_lines(smallest), "", *story]
    print("\n".join(text), file=sys.stderr)
    for violation in result.violations:
        print(f"violation of {violation.invariant}: {violation.text}", file=sys.stderr)
    return 1


def _invariants(result: Result) -> set[str]:
    return {violation.invariant for violation in result.violations}


_COMMAND_LINE = re.compile(r" *[\d.]+  \S* *[<>] ")


def _without_commands(show: Callable[[str], object]) -> Callable[[str], object]:
    """Return a function that shows the lines of a trace other than commands and replies."""

    def show_event(line: str) -> None:
        if not _COMMAND_LINE.match(line):
            show(line)

    return show_event


def _read_plan(path: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads(path.read_text())
    plan = values.get("plan", values)
    assert isinstance(plan, dict), path
    return plan


def _with_fixed_hashes(arguments: Sequence[str]) -> None:
    """Start Python again if its hashes of strings are random. They decide the order of sets."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *arguments],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )


if __name__ == "__main__":
    _with_fixed_hashes(sys.argv[1:])
    try:
        sys.exit(main())
    except MissingTool as error:
        sys.exit(str(error))
