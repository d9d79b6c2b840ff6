"""Explores the model of the protocol, and prints the number of states.

python -m tests.protocol_model             explore all bounds, then take random walks
python -m tests.protocol_model --walks 0   explore only
"""

import argparse
import sys
import time
from collections import Counter

from tests.protocol_model.explore import STUCK, Explorer, Result, walk
from tests.protocol_model.state import Bounds, describe
from tests.protocol_model.test_protocol import FULL, SMALL
from tests.protocol_model.transitions import AGAIN, LOST, RECORDED_TWICE, TWICE

WALKED = Bounds(consumers=4, spares=1, entries=3, crashes=4, pauses=4, losses=3, cuts=4, delays=4, trims=1)
STEPS = 400


def main() -> int:
    """Print the result of each exploration. Returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocol_model", description=__doc__.splitlines()[0])
    parser.add_argument("--walks", type=int, default=200, help="number of random walks")
    options = parser.parse_args()
    print("In no state:", *(LOST, TWICE, AGAIN, RECORDED_TWICE, STUCK), sep="\n  ")
    for bounds in (*SMALL, *FULL):
        begin = time.process_time()
        result = Explorer(bounds).run()
        print(f"\n{describe(bounds)}\n  {result.states} states, {result.transitions} transitions, ", end="")
        print(f"{result.settled} settled, {time.process_time() - begin:.0f} s")
        if print_findings(result):
            return 1
    total, counted = 0, Counter[str]()
    for seed in range(options.walks):
        result = walk(WALKED, frozenset(), seed, STEPS)
        total, counted = total + result.transitions, counted + result.counted
        if result.violation:
            print_findings(result)
            return 1
    print(f"\n{options.walks} random walks with {describe(WALKED)}\n  {total} transitions")
    print_findings(Result(counted=counted))
    return 0


def print_findings(result: Result) -> bool:
    """Print the permitted duplicates and the violation. Returns True if there is a violation."""
    for reason, count in sorted(result.counted.items()):
        if count:
            print(f"  permitted {count} times: {reason}")
    if result.violation:
        print(f"  BROKEN: {result.violation}", *result.story, sep="\n    ")
    return bool(result.violation)


if __name__ == "__main__":
    sys.exit(main())
