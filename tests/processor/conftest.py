from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli import forked
from tests.cluster.redis_servers import RedisServer
from tests.processor.group import Group
from tests.processor.pod import NewPod, Pod


@pytest.fixture
async def group(redis_server: RedisServer) -> AsyncIterator[Group]:
    """Yield a consumer group on an empty Redis 7.0."""
    group_on_server = Group(redis_server)
    yield group_on_server
    await group_on_server.close()


@pytest.fixture
async def any_group(any_redis: RedisServer) -> AsyncIterator[Group]:
    """Yield a consumer group on each kind of server in turn."""
    group_on_server = Group(any_redis)
    yield group_on_server
    await group_on_server.close()


@pytest.fixture
async def new_pod(tmp_path: Path, group: Group) -> AsyncIterator[NewPod]:
    """Create pods that use the server of `group`: `new_pod("pod_handlers:log_handled", drain_timeout="3s")`."""
    pods: list[Pod] = []
    forked.start_server()

    def new(handler: str, **settings: str) -> Pod:
        folder = tmp_path / f"pod-{len(pods)}"
        folder.mkdir()
        pods.append(Pod(folder, group.url, handler, **settings))
        return pods[-1]

    yield new
    for pod in pods:
        pod.remove()
