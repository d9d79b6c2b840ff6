"""Stored plans: known faults still occur, fixed faults stay fixed, and clean seeds stay clean."""

from collections.abc import Callable

import pytest

from tests.simulation.real_server import RealServer
from tests.simulation.records import Result
from tests.simulation.regression import FOLDER, Regression, load_all
from tests.simulation.seeds import plan_of
from tests.simulation.simulation import simulate

CLEAN_SEEDS: tuple[str, ...] = ("2", "7", "12")
"""Seeds without a violation."""

pytestmark = pytest.mark.usefixtures("quiet_engine")


def texts(result: Result) -> list[str]:
    return [f"{violation.invariant}: {violation.text}" for violation in result.violations]


SLOW = {
    "A5-second-process",
    "A7-max-clients",
    "F11-foreign-consumer-names",
    "S1-binary-consumer-name",
    "S4-many-due",
    "S7-schedule-lost",
    "S8-blocked-lane",
}
"""Cases whose simulation takes more than 2 seconds."""


@pytest.mark.parametrize(
    "regression",
    [pytest.param(each, marks=[pytest.mark.slow] if each.name in SLOW else []) for each in load_all()],
    ids=lambda regression: regression.name,
)
def test_a_known_fault_occurs_until_it_is_fixed(
    regression: Regression, real_server: Callable[[str], RealServer]
) -> None:
    result = simulate(regression.plan, real_server(regression.server))
    if regression.is_fixed:
        assert texts(result) == []
    else:
        assert regression.is_shown_by(regression.plan, result.violations), (
            f"{regression.finding} no longer occurs: set is_fixed to true in {FOLDER.name}/{regression.name}.json; "
            f"found {texts(result)}"
        )


@pytest.mark.parametrize("seed", CLEAN_SEEDS)
def test_a_clean_seed_violates_nothing(seed: str, real_server: Callable[[str], RealServer]) -> None:
    assert texts(simulate(plan_of(seed), real_server("redis-7.0"))) == []
