from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.cluster.redis_servers import RedisServer
from tests.reliability.fork_server import ForkServer
from tests.reliability.scenario import Scenario


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    connected = Redis.from_url(redis_server.url, decode_responses=True)
    yield connected
    connected.close()


@pytest.fixture
def new_scenario(fork_server: ForkServer, client: Redis, redis_server: RedisServer, tmp_path: Path) -> Iterator[Any]:
    """Create scenarios on one server, each with its own stream: `new_scenario(CONCURRENCY="1")`."""
    scenarios: list[Scenario] = []

    def new(url: str = "", **settings: str) -> Scenario:
        scenarios.append(Scenario(fork_server, client, url or redis_server.url, tmp_path, settings))
        return scenarios[-1]

    yield new
    for scenario in scenarios:
        for pod in scenario.pods:
            pod.remove()
