"""Runs of single mutants."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutants import run, targets
from tests.mutants.mutant import Mutant, with_occurrences
from tests.mutants.reach import Unit
from tests.mutants.report import Report
from tests.mutants.run import Verdict, plan, run_one
from tests.simulation import server_clock
from tests.simulation.seeds import plan_of

pytestmark = pytest.mark.slow

SEED = Unit("seed 4", 0.2, frozenset())
"""Unit of a test that replaces the run of the seeds."""


@pytest.fixture(scope="module")
def passing() -> Unit:
    """Return a seed without faults that passes without a mutant. Without a C compiler, the test is skipped."""
    server_clock.library()
    for seed in map(str, range(200)):
        plan = plan_of(seed)
        if plan.messages and not plan.faults and all(pod.handler == "instant" and not pod.manager for pod in plan.pods):
            unit = Unit(f"seed {seed}", 0.2, frozenset())
            if not run_one(None, [unit]).is_caught:
                return unit
    raise AssertionError("found no seed without faults that passes")


def mutant(place: str, description: str) -> Mutant:
    return next(each for each in targets.mutants() if (each.place, each.description) == (place, description))


def hang(_seeds: object, on_start: Callable[[str], object]) -> None:
    on_start("seed 4")
    time.sleep(60)


def test_a_seed_catches_a_mutant_of_a_function(passing: Unit) -> None:
    verdict = run_one(mutant("AckBuffer.take_batch", "delete `return acks`"), [passing])
    assert verdict.is_caught, verdict
    assert verdict.reason.startswith(f"{passing.name}: ")


def test_a_seed_catches_a_mutant_of_a_script(passing: Unit) -> None:
    statement = "local created, exists = call('XGROUP', 'CREATE', stream, group, begin, 'MKSTREAM')"
    verdict = run_one(mutant("RESTORE_GROUP", f"delete `{statement}`"), [passing])
    assert verdict.is_caught, verdict


def test_a_mutant_that_changes_nothing_survives(passing: Unit) -> None:
    description = 'delete `log.info("renewing the leases of messages in flight again")`'
    verdict = run_one(mutant("HeartbeatThread._record_success", description), [passing])
    assert (verdict.is_caught, verdict.reason) == (False, "1 seeds and 0 tests passed")


def test_a_control_survives_and_leaves_this_process_as_it_is(passing: Unit) -> None:
    before = Path.cwd()
    assert not run_one(None, [passing]).is_caught
    assert Path.cwd() == before


def test_a_mutant_that_no_unit_reaches_survives() -> None:
    assert run_one(None, []) == Verdict(is_caught=False, reason="no seed or test reaches the code", seconds=0.0)


def test_a_child_that_ends_or_does_not_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_seeds", lambda *_: os._exit(3))
    assert run_one(None, [SEED], limit=3.0).reason.endswith("the process ended")
    monkeypatch.setattr(run, "run_seeds", hang)
    verdict = run_one(None, [SEED], limit=3.0)
    assert verdict.is_caught
    assert verdict.reason.startswith("seed 4: no end after ")
    assert verdict.seconds < 30


def test_a_slow_unit_does_not_count_as_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_seeds", hang)
    verdict = run_one(None, [Unit("seed 4", 20.0, frozenset())], limit=3.0)
    assert (verdict.is_caught, verdict.reason[:18]) == (False, "the time was over ")


def test_the_plan_contains_what_reaches_the_code_within_the_time() -> None:
    chosen = next(each for each in targets.mutants() if each.place == "PendingClaimer._trim")
    here, elsewhere = chosen.reached_by, frozenset({"elsewhere"})
    units = [
        Unit("tests/x/test_processor.py::test_a", 0.1, here),
        Unit("tests/x/test_claimer.py::test_b", 2.5, here),
        Unit("seed 1", 2.9, here),
        Unit("seed 2", 1.0, here),
        Unit("seed 3", 0.1, elsewhere),
        Unit("seed 4", 0.5, here),
    ]
    assert [unit.name.rpartition("::")[2] for unit in plan(chosen, units)] == ["test_b", "test_a", "seed 4", "seed 2"]


def test_slots_run_all_mutants_and_stop_when_asked() -> None:
    work: list[run.Work] = [(None, ())] * 5
    assert sorted(index for index, _ in run.run(work, slots=2, should_stop=lambda _: False)) == [0, 1, 2, 3, 4]
    assert sorted(index for index, _ in run.run(work, slots=2, should_stop=lambda count: count >= 2)) == [0, 1]


def test_equivalent_mutants_are_not_counted_and_must_exist() -> None:
    chosen = mutant("RENEW", "delete `return lost`")
    key = (chosen.path, chosen.place, chosen.description)
    report = Report(targets.mutants(), {key: "reason"}, "RENEW", 0)
    assert chosen not in report.counted
    assert report.unknown_equivalent == []
    report = Report(targets.mutants(), {("a.py", "F", "delete `x`"): "reason"}, "", 0)
    assert report.unknown_equivalent == [
        "equivalent.toml: found a.py F delete `x`, expected a mutant that exists; remove the entry"
    ]


def test_survivors_are_printed_with_place_and_diff(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = mutant("RENEW", "delete `return lost`"), mutant("RENEW", "delete `mine[#mine + 1] = id`")
    report = Report([first, second], {}, "", 0)
    report.add(None, Verdict(is_caught=False, reason="", seconds=1))
    report.add(first, Verdict(is_caught=True, reason="seed 1: lost", seconds=1))
    report.add(second, Verdict(is_caught=False, reason="3 seeds and 1 tests passed", seconds=1))
    report.print_survivors()
    report.print_shares(60)
    printed = capsys.readouterr().out
    assert f"{second.location} RENEW: delete `mine[#mine + 1] = id` (3 seeds and 1 tests passed)" in printed
    assert "-       mine[#mine + 1] = id" in printed
    assert "+       do end" in printed
    assert "1 of    2 caught ( 50%)  total" in printed
    assert "0 of 1 controls were caught" in printed


def test_mutants_have_distinct_descriptions() -> None:
    keys = [(each.path, each.place, each.description) for each in targets.mutants()]
    assert len(keys) == len(set(keys))
    assert with_occurrences([]) == []
