"""Run all workloads, or only the named ones. The tables go to the terminal and to RESULTS.md."""

import argparse
import importlib
import sys
import time

from benchmarks import results
from benchmarks.workloads import NAMES, ONLY_BY_NAME


def main() -> None:
    """Run the workloads, print their tables and write RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "workload",
        nargs="*",
        metavar="WORKLOAD",
        help=f"{', '.join(NAMES)} (default: all of these); only by name: {', '.join(ONLY_BY_NAME)}",
    )
    parser.add_argument("--rounds", type=int, help="number of rounds (default: set by each workload)")
    parser.add_argument("--no-write", action="store_true", help="do not write RESULTS.md")
    arguments = parser.parse_args()
    all_names = (*NAMES, *ONLY_BY_NAME)
    if unknown := set(arguments.workload) - set(all_names):
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; expected {', '.join(all_names)}")
    for name in arguments.workload or NAMES:
        started = time.perf_counter()
        workload = importlib.import_module(f"benchmarks.workloads.{name}")
        section = workload.measure(arguments.rounds or workload.ROUNDS)
        print(f"\n## {name}\n\n{section.text()}\n", flush=True)
        print(f"{name} took {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if not arguments.no_write:
            results.write_section(section)


if __name__ == "__main__":
    main()
