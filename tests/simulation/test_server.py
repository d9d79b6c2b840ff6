"""The real server of a simulation between two commands."""

import time
from collections.abc import Callable

import pytest

from tests.cluster.fixtures import ANY_FLAVOUR
from tests.cluster.redis_servers import Flavour
from tests.simulation.real_server import RealServer
from tests.simulation.seeds import plan_of
from tests.simulation.simulation import simulate


@pytest.mark.parametrize("flavour", ANY_FLAVOUR)
@pytest.mark.usefixtures("quiet_engine")
def test_server_uses_no_processor_time_after_a_simulation(
    flavour: Flavour, real_server: Callable[[str], RealServer]
) -> None:
    server = real_server(flavour.name)
    simulate(plan_of("0"), server)
    before = server.cpu_seconds()
    time.sleep(1)  # A busy server uses up to one second.
    assert server.cpu_seconds() - before < 0.05
