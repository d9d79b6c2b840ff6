"""Measures how many mechanical changes of the engine the simulation and the tests notice.

make mutants                  run all mutants, or a random sample if they take more than an hour
make mutants ONLY=claimer.py  run the mutants whose place contains the text; also claimer.py:123, RENEW
"""

import argparse
import gc
import sys
import time

from tests.mutants import reach, targets, units
from tests.mutants.report import Report, describe_units, read_equivalent
from tests.mutants.run import Work, plan, run
from tests.simulation import server_clock

SLOTS = 2
CONTROLS = 10
"""Number of runs without a change. If one of them counts as caught, the figures are not reliable."""


def main() -> int:
    """Run the mutants, and print the survivors and the shares. Returns the exit code."""
    options = _parse()
    begin = time.monotonic()
    report = Report(targets.mutants(), read_equivalent(), options.only, options.seed)
    if report.unknown_equivalent:
        print(*report.unknown_equivalent, sep="\n")
        return 1
    units.collect_tests()
    targets.functions()
    server_clock.library()
    gc.collect()
    gc.freeze()  # Each simulation ends with a collection, which then skips the modules.
    measured = reach.measured(options.simulated)
    print(describe_units(measured), f"{time.monotonic() - begin:.0f} s", flush=True)

    begin = time.monotonic()
    work: list[Work] = [(None, plan(each, measured)) for each in report.counted[:CONTROLS]]
    work += [(each, plan(each, measured)) for each in report.counted]

    def should_stop(started: int) -> bool:
        return bool(started >= CONTROLS + options.sample and time.monotonic() - begin > options.seconds)

    for index, verdict in run(work, slots=SLOTS, should_stop=should_stop, limit=options.limit):
        print(report.add(work[index][0], verdict), flush=True)
    report.print_survivors()
    report.print_shares(time.monotonic() - begin)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="?", default="", help="text that the place of a mutant contains; default: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random order")
    parser.add_argument("--seconds", type=float, default=3600, help="time after which the sample ends")
    parser.add_argument("--sample", type=int, default=200, help="minimum size of the sample")
    parser.add_argument("--limit", type=float, default=10, help="maximum time for one mutant; more on a busy machine")
    parser.add_argument("--simulated", type=int, default=100, help="number of simulation seeds to choose from")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
