"""The real server of a simulation between two commands."""

import time
from collections.abc import Callable

import pytest

from tests.cluster.redis_servers import FLAVOURS
from tests.simulation.real_server import RealServer
from tests.simulation.seeds import plan_of
from tests.simulation.simulation import simulate


@pytest.mark.parametrize("name", [each.name for each in FLAVOURS])
@pytest.mark.usefixtures("quiet_engine")
def test_server_uses_no_processor_time_after_a_simulation(name: str, real_server: Callable[[str], RealServer]) -> None:
    server = real_server(name)
    simulate(plan_of("0"), server)
    before = server.cpu_seconds()
    time.sleep(1)  # A busy server uses up to one second.
    assert server.cpu_seconds() - before < 0.05
