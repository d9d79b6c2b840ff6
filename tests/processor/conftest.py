from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster.redis_servers import RedisServer
from tests.processor.group import Group
from tests.processor.pod import NewPod, Pod


@pytest.fixture
async def group(redis_server: RedisServer) -> AsyncIterator[Group]:
    """An empty Redis 7.0 and the group that tests use on it."""
    on_server = Group(redis_server)
    yield on_server
    await on_server.close()


@pytest.fixture
async def any_group(any_redis: RedisServer) -> AsyncIterator[Group]:
    """The same on each kind of server, one after the other."""
    on_server = Group(any_redis)
    yield on_server
    await on_server.close()


@pytest.fixture
async def new_pod(tmp_path: Path, group: Group) -> AsyncIterator[NewPod]:
    """Pods over `group`'s server: `new_pod("pod_handlers:note", drain_timeout="3s")`."""
    pods: list[Pod] = []

    def new(handler: str, **settings: str) -> Pod:
        folder = tmp_path / f"pod-{len(pods)}"
        folder.mkdir()
        pods.append(Pod(folder, group.url, handler, **settings))
        return pods[-1]

    yield new
    for pod in pods:
        pod.remove()
