"""Measures the promises about takeover, duplicate starts, roll-outs, backlogs and idle cost.

    python -m tests.reliability.acceptance [kill] [lost-node] [twice] [rollout] [backlog] [idle]

Exit code 0: each figure is within its target. `docs/reliability.md` contains the results.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.cluster.errors import MissingTool
from tests.reliability.acceptance.backlog import measure_backlogs
from tests.reliability.acceptance.idle_cost import measure_idle_cost
from tests.reliability.acceptance.rollout import measure_rollout
from tests.reliability.acceptance.started_twice import CASES, measure_started_twice
from tests.reliability.acceptance.takeover import in_own_network, measure_kills, measure_lost_nodes
from tests.reliability.fork_server import ROOT

NAMES = ("kill", "lost-node", "twice", "rollout", "backlog", "idle")
IN_OWN_NETWORK = "-in-own-network"


def main() -> int:
    options = _parse()
    folder = Path(tempfile.mkdtemp(prefix="acceptance-"))
    min_idles = [3.0] * options.repetitions + [30.0]
    measurements: dict[str, Callable[[], tuple[str, bool]]] = {
        "kill": lambda: measure_kills(options.kills, folder),
        f"lost-node{IN_OWN_NETWORK}": lambda: measure_lost_nodes(min_idles, folder),
        "twice": lambda: measure_started_twice(
            [case for case in CASES if options.only in case.name], options.repetitions, folder
        ),
        "rollout": lambda: measure_rollout(5, folder),
        "backlog": lambda: measure_backlogs(folder),
        "idle": lambda: measure_idle_cost(options.seconds, folder),
    }
    is_met = True
    for name in options.names:
        if name == "lost-node":
            is_met &= _lost_nodes(options.repetitions)
            continue
        report, is_kept = measurements[name]()
        is_met &= is_kept
        print(f"\n## {name.removesuffix(IN_OWN_NETWORK)}\n\n{report}\n", flush=True)
    if is_met:
        shutil.rmtree(folder)
    else:
        print(f"a figure is outside its target; the ledgers and logs are in {folder}", file=sys.stderr)
    return 0 if is_met else 1


def _lost_nodes(repetitions: int) -> bool:
    """Run the measurement in a network namespace, so that its packet filter affects nothing else."""
    command = [
        sys.executable,
        "-m",
        "tests.reliability.acceptance",
        f"lost-node{IN_OWN_NETWORK}",
        "--repetitions",
        str(repetitions),
    ]
    try:
        return subprocess.run(in_own_network(command), cwd=ROOT, check=False).returncode == 0
    except MissingTool as missing:
        print(f"## lost-node\n\nskipped: {missing}\n", flush=True)
        return True


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.acceptance", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES), help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--kills", type=int, default=300, help="valid samples of kill -9 (default: 300)")
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions of each other fault (default: 5)")
    parser.add_argument("--seconds", type=float, default=120, help="seconds in which idle commands are counted")
    parser.add_argument("--only", default="", help="part of the names of the `twice` cases")
    options = parser.parse_args()
    if unknown := set(options.names) - {*NAMES, f"lost-node{IN_OWN_NETWORK}"}:
        parser.error(f"found {', '.join(sorted(unknown))}, expected {', '.join(NAMES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
