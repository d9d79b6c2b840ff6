"""`python -m benchmarks` runs every workload; named, those alone. Tables go to the terminal and into RESULTS.md."""

import argparse
import importlib
import sys
import time

from benchmarks import results
from benchmarks.workloads import NAMES, ONLY_BY_NAME


def main() -> None:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "workload",
        nargs="*",
        metavar="WORKLOAD",
        help=f"of {', '.join(NAMES)}; without one, all; by name only: {', '.join(ONLY_BY_NAME)}",
    )
    parser.add_argument("--rounds", type=int, help="how often each is run; without it, as often as the workload says")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md as it is")
    asked = parser.parse_args()
    known = (*NAMES, *ONLY_BY_NAME)
    if unknown := set(asked.workload) - set(known):
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in asked.workload or NAMES:
        began = time.perf_counter()
        workload = importlib.import_module(f"benchmarks.workloads.{name}")
        section = workload.measure(asked.rounds or workload.ROUNDS)
        print(f"\n## {name}\n\n{section.text()}\n", flush=True)
        print(f"{name} took {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if not asked.no_write:
            results.write_section(section)


if __name__ == "__main__":
    main()
