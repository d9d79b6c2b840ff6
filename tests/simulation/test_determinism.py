"""A seed always gives the same trace: on each server, in each process, and after other simulations."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation.real_server import RealServer
from tests.simulation.records import Result
from tests.simulation.seeds import plan_of
from tests.simulation.simulation import simulate

ROOT = Path(__file__).parents[2]
SERVERS = ("redis-7.0", "valkey-9.1")
SEEDS = ("0", "7")


@pytest.fixture(params=SERVERS)
def real(request: pytest.FixtureRequest, real_server: Callable[[str], RealServer]) -> RealServer:
    return real_server(request.param)


def run(seed: str, real: RealServer) -> Result:
    return simulate(plan_of(seed), real)


@pytest.mark.usefixtures("quiet_engine")
def test_seed_gives_the_same_trace_after_other_seeds(real: RealServer) -> None:
    first, second = (run(seed, real).trace_hash for seed in SEEDS)
    assert first != second
    assert [run(seed, real).trace_hash for seed in reversed(SEEDS)] == [second, first]


@pytest.mark.usefixtures("quiet_engine")
def test_seed_gives_the_same_trace_in_another_process_with_other_hashes(
    real_server: Callable[[str], RealServer],
) -> None:
    real = real_server(SERVERS[0])
    program = (
        "import sys; from tests.simulation.seeds import flavour_of, plan_of\n"
        "from tests.simulation.simulation import simulate; from tests.simulation.real_server import RealServer\n"
        "real = RealServer(flavour_of(sys.argv[1])); print('hash', simulate(plan_of(sys.argv[2]), real).trace_hash)\n"
        "real.stop()"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PYTHONHASHSEED": "1"}
    output = subprocess.run(
        [sys.executable, "-c", program, real.flavour.name, SEEDS[0]],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.findall(r"hash (\w+)", output) == [run(SEEDS[0], real).trace_hash]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("quiet_engine")
def test_seed_gives_the_same_trace_a_hundred_times(real: RealServer) -> None:
    assert len({run(SEEDS[1], real).trace_hash for _ in range(100)}) == 1
