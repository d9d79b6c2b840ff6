"""Explores the model of the protocol, and prints the number of states.

python -m tests.protocol_model               explore all bounds, then take random walks for a minute
python -m tests.protocol_model --seconds 0   explore only
"""

import argparse
import gc
import sys
import time

from tests.protocol_model.explore import STUCK, Explorer, Result, walk
from tests.protocol_model.machine import Machine
from tests.protocol_model.pairs import PairExplorer
from tests.protocol_model.state import Bounds, describe
from tests.protocol_model.test_protocol import FULL, PAIRS, SMALL
from tests.protocol_model.transitions import AGAIN, LOST, RECORDED_TWICE, TWICE

WALKED = Bounds(consumers=4, spares=1, entries=3, crashes=4, pauses=4, losses=3, cuts=4, delays=4, trims=1)
STEPS = 400
WALKS_PER_MACHINE = 100
"""Number of walks after which the cached transitions are dropped, because a walk rarely returns to a state."""


def main() -> int:
    """Print the result of each exploration. Returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocol_model", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="duration of the random walks")
    options = parser.parse_args()
    gc.disable()  # Automatic collections are slow, because the explorers create millions of tuples.
    print("In no state:", *(LOST, TWICE, AGAIN, RECORDED_TWICE, STUCK), sep="\n  ")
    is_broken = any(explore(bounds, Explorer) for bounds in (*SMALL, *FULL))
    is_broken = is_broken or any(explore(bounds, PairExplorer) for bounds in PAIRS)
    return int(is_broken or take_walks(options.seconds))


def explore(bounds: Bounds, explorer: type[Explorer | PairExplorer]) -> bool:
    """Print the result of an exploration. Returns True if a promise is broken."""
    begin = time.process_time()
    result = explorer(Machine(bounds)).run()
    print(f"\n{describe(bounds)}\n  {result.states} states, {time.process_time() - begin:.0f} s", flush=True)
    gc.collect()
    return print_findings(result)


def take_walks(seconds: float) -> bool:
    """Print the result of random walks. Returns True if a promise is broken."""
    end, total, walks = time.monotonic() + seconds, Result(), 0
    while not total.violation and time.monotonic() < end:
        if walks % WALKS_PER_MACHINE == 0:
            machine = Machine(WALKED)
            gc.collect()
        result = walk(machine, walks, STEPS)
        total.transitions, total.counted = total.transitions + result.transitions, total.counted + result.counted
        total.violation, total.story, walks = result.violation, result.story, walks + 1
    print(f"\n{describe(WALKED)}\n  {walks} random walks, {total.transitions} transitions")
    return print_findings(total)


def print_findings(result: Result) -> bool:
    """Print the permitted duplicates and the violation. Returns True if there is a violation."""
    for reason, number in sorted(result.counted.items()):
        if number:
            print(f"  permitted {number} times: {reason}")
    if result.violation:
        print(f"  BROKEN: {result.violation}", *result.story, sep="\n    ")
    return bool(result.violation)


if __name__ == "__main__":
    sys.exit(main())
