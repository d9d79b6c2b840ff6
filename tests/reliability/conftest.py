from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.cluster.redis_servers import RedisServer
from tests.reliability.nursery import Nursery
from tests.reliability.trial import Trial


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as ours:
        yield ours


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    ours = Redis.from_url(redis_server.url, decode_responses=True)
    yield ours
    ours.close()


@pytest.fixture
def new_trial(nursery: Nursery, client: Redis, redis_server: RedisServer, tmp_path: Path) -> Iterator[Any]:
    """Trials on one server: `new_trial()`, each with a stream of its own."""
    trials: list[Trial] = []

    def new(url: str = "", **more: str) -> Trial:
        trials.append(Trial(nursery, client, url or redis_server.url, tmp_path, more))
        return trials[-1]

    yield new
    for trial in trials:
        for pod in trial.pods:
            pod.remove()
