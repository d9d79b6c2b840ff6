"""Coverage records where tasks are suspended, and adds faults at exactly these moments."""

from collections.abc import Callable

import pytest

from tests.simulation.await_points import all_points
from tests.simulation.coverage import Coverage
from tests.simulation.seeds import plan_of, with_fault
from tests.simulation.server import RealServer
from tests.simulation.simulation import simulate

SEED = "0"


@pytest.mark.usefixtures("quiet_engine")
def test_fault_hits_the_await_point_at_which_a_task_was_suspended(real_server: Callable[[str], RealServer]) -> None:
    real, coverage = real_server("redis-7.0"), Coverage()
    simulate(plan_of(SEED), real, observe=lambda simulation: coverage.observe(simulation, SEED))
    assert set(coverage.moments) <= set(all_points())
    assert coverage.operations["owned", "XACK"]
    point = next(point for point in coverage.moments if point.function == "RawConnection.execute")
    _, _, microseconds, pod = coverage.moments[point][0]
    seed = with_fault(SEED, "node_loss", microseconds, pod)
    simulate(plan_of(seed), real, observe=lambda simulation: coverage.observe(simulation, seed))
    assert coverage.pairs[point, "node_loss"] == 1
