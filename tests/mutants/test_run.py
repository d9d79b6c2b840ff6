"""Runs of single mutants."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import run, targets
from tests.mutants.mutant import Mutant, with_occurrences
from tests.mutants.reach import Unit
from tests.mutants.report import Report
from tests.mutants.run import Verdict, plan, run_one
from tests.simulation.server_clock import has_compiler

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="found no C compiler")

SEED = Unit("seed 4", 0.2, frozenset())
"""Seed that passes without a mutant."""

TEST = Unit(
    "tests/processor/consumer/test_leases.py::test_only_one_of_two_consumers_starts_the_attempt", 1.0, frozenset()
)


def mutant(place: str, description: str) -> Mutant:
    return next(each for each in targets.mutants() if (each.place, each.description) == (place, description))


@needs_compiler
def test_a_seed_catches_a_mutant_of_a_function() -> None:
    verdict = run_one(mutant("AckBuffer.add", "delete `self._buffered[message_id] = None`"), [SEED])
    assert verdict.is_caught, verdict
    assert verdict.reason.startswith("seed 4: ")


@needs_compiler
def test_a_seed_catches_a_mutant_of_a_script() -> None:
    verdict = run_one(mutant("SAVE", "delete `local new = mark()`"), [SEED])
    assert verdict.is_caught, verdict


@needs_compiler
def test_a_mutant_that_changes_nothing_survives() -> None:
    description = 'delete `log.debug("lease renewal failed", extra={"error": str(error)})`'
    verdict = run_one(mutant("HeartbeatThread._renew", description), [SEED])
    assert (verdict.is_caught, verdict.reason) == (False, "1 seeds and 0 tests passed")


@needs_compiler
def test_a_control_survives_and_leaves_this_process_as_it_is() -> None:
    before = Path.cwd()
    assert not run_one(None, [SEED]).is_caught
    assert Path.cwd() == before
