"""Results of a run: verdicts, survivors with their diffs, and the share of caught mutants per module."""

import random
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.reach import Unit
from tests.mutants.run import Verdict

EQUIVALENT = Path(__file__).with_name("equivalent.toml")
"""Mutants that cannot change behaviour, each with the reason. They are not counted."""

Key = tuple[str, str, str]
"""Path, place and description of a mutant."""


def read_equivalent(path: Path = EQUIVALENT) -> dict[Key, str]:
    """Return the reasons of the mutants that cannot change behaviour."""
    rows = tomllib.loads(path.read_text()).get("equivalent", [])
    return {(row["path"], row["place"], row["mutant"]): row["reason"] for row in rows}


class Report:
    """Mutants of a run, and their verdicts."""

    def __init__(self, mutants: Sequence[Mutant], equivalent: Mapping[Key, str], only: str, seed: int) -> None:
        keys = {_key(each) for each in mutants}
        self.unknown_equivalent = [
            f"{EQUIVALENT.name}: found {' '.join(key)}, expected a mutant that exists; remove the entry"
            for key in sorted(equivalent.keys() - keys)
        ]
        """Entries of the list of equivalent mutants that match no mutant."""
        chosen = [each for each in mutants if only in f"{each.location} {each.place}"]
        self.counted = [each for each in chosen if _key(each) not in equivalent]
        """Mutants to run, in random order."""
        random.Random(seed).shuffle(self.counted)
        self._equivalent_count = len(chosen) - len(self.counted)
        self._results: list[tuple[Mutant, Verdict]] = []
        self._controls: list[Verdict] = []

    def add(self, mutant: Mutant | None, verdict: Verdict) -> str:
        """Record a verdict. Returns a line that describes it."""
        if mutant is None:
            self._controls.append(verdict)
            place = "control"
        else:
            self._results.append((mutant, verdict))
            place = f"{mutant.location} {mutant.place}: {mutant.description[:90]}"
        word = "caught" if verdict.is_caught else "survived"
        return f"{len(self._results):4} {word:8} {verdict.seconds:4.1f} s  {place}: {verdict.reason}"

    def print_survivors(self) -> None:
        """Print the place, the reason and the diff of each survivor."""
        survivors = [each for each in self._results if not each[1].is_caught]
        for mutant, verdict in sorted(survivors, key=lambda each: (each[0].path, each[0].line)):
            print(f"\n{mutant.location} {mutant.place}: {mutant.description} ({verdict.reason})\n{mutant.diff()}")

    def print_shares(self, seconds: float) -> None:
        """Print the share of caught mutants per module and in total."""
        by_path: dict[str, list[bool]] = defaultdict(list)
        for mutant, verdict in self._results:
            by_path[mutant.path].append(verdict.is_caught)
            by_path["total"].append(verdict.is_caught)
        print()
        for path, caught in sorted(by_path.items(), key=lambda each: (each[0] == "total", each[0])):
            print(f"{sum(caught):5} of {len(caught):4} caught ({sum(caught) / len(caught):4.0%})  {path}")
        hanging = sum("no end after" in verdict.reason for _, verdict in self._results)
        print(
            f"{len(self._results)} of {len(self.counted)} mutants in {seconds:.0f} s. "
            f"{hanging} were caught by a timeout. {self._equivalent_count} equivalent mutants are not counted. "
            f"{sum(each.is_caught for each in self._controls)} of {len(self._controls)} controls were caught."
        )


def describe_units(units: Sequence[Unit]) -> str:
    """Return the number of units and their durations."""
    seeds = [unit.seconds for unit in units if unit.seed is not None]
    tests = [unit.seconds for unit in units if unit.seed is None]
    return f"{len(seeds)} seeds ({sum(seeds):.0f} s) and {len(tests)} tests ({sum(tests):.0f} s) pass without a mutant;"


def _key(mutant: Mutant) -> Key:
    return mutant.path, mutant.place, mutant.description
