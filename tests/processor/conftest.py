from collections.abc import AsyncIterator

import pytest

from tests.cluster.redis_servers import RedisServer
from tests.processor.group import Group


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
