"""Coverage starts faults at the await points that they have not hit, and the seed repeats each of its simulations."""

from collections import Counter
from collections.abc import Callable
from functools import reduce
from random import Random

import pytest

from tests.simulation.await_points import all_points
from tests.simulation.coverage import Coverage
from tests.simulation.coverage_run import Scenario, choose
from tests.simulation.directed_scenarios import DIRECTED
from tests.simulation.fault_choice import FaultChooser
from tests.simulation.foreign_faults import COMMON_FAULTS
from tests.simulation.plan import FaultPlan
from tests.simulation.real_server import RealServer
from tests.simulation.records import Result
from tests.simulation.seeds import further_fault, plan_of, with_fault
from tests.simulation.simulation import Simulation, simulate
from tests.simulation.unreached import UNREACHED

SEED = "drain:0"


@pytest.fixture
def real(real_server: Callable[[str], RealServer]) -> RealServer:
    return real_server("redis-7.0")


def run(real: RealServer, seed: str, coverage: Coverage) -> Result:
    return simulate(plan_of(seed), real, observe=coverage.observe)


@pytest.mark.usefixtures("quiet_engine")
def test_seed_with_the_chosen_faults_repeats_the_simulation(real: RealServer) -> None:
    coverage, again = Coverage(), Coverage()
    faults: list[FaultPlan] = []

    def observe(simulation: Simulation) -> None:
        coverage.observe(simulation)
        FaultChooser(simulation, Random(SEED), Coverage().missing(COMMON_FAULTS), coverage, faults.append)

    result = simulate(plan_of(SEED), real, observe=observe)
    assert len(faults) > 1
    assert {(fault.point, fault.kind) for fault in faults} <= {(point.name, kind) for point, kind in coverage.pairs}
    assert coverage.operations["owned", "XACK"]
    replayed = run(real, reduce(with_fault, faults, SEED), again)
    assert replayed == result
    assert (again.pairs, again.operations) == (coverage.pairs, coverage.operations)


@pytest.mark.usefixtures("quiet_engine")
def test_fault_waits_for_its_await_point(real: RealServer) -> None:
    coverage = Coverage()
    point = next(point for point in all_points() if point.function == "RawConnection.execute")
    run(real, with_fault(SEED, further_fault("crash", 0, "pod-b~0", point.name)), coverage)
    assert coverage.pairs[point, "crash"] == 1


@pytest.mark.parametrize("name", DIRECTED)
def test_directed_scenario_is_the_same_each_time(name: str) -> None:
    first, second, other = (plan_of(f"{name}:{number}") for number in (0, 0, 1))
    assert first == second != other


@pytest.mark.parametrize("name", DIRECTED)
def test_directed_scenario_names_await_points_that_exist(name: str) -> None:
    points = {fault.point for fault in plan_of(f"{name}:0").faults if fault.point}
    assert points <= {point.name for point in all_points()}


def test_names_of_await_points_are_unique() -> None:
    assert len({point.name for point in all_points()}) == len(all_points())


def test_each_reason_is_about_an_await_point() -> None:
    pairs = [(point, kind) for point in all_points() for kind in COMMON_FAULTS]
    assert [reason.text for reason in UNREACHED if not any(reason.applies_to(*pair) for pair in pairs)] == []


def test_scenario_that_reaches_the_missing_await_point_soonest_is_chosen() -> None:
    point, other = all_points()[:2]
    scenarios = [
        Scenario("slow", runs=1, seconds=9, points=Counter([point])),
        Scenario("fast", runs=1, seconds=3, points=Counter([point])),
        Scenario("useless", runs=1, seconds=1, points=Counter([other])),
    ]
    scenarios[2].pairs_per_second = 5.0
    chosen = {choose(scenarios, [(point, "crash")], Random(number))[0].name for number in range(20)}
    assert chosen == {"fast", "useless"}
