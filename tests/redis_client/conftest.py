"""The fixtures of the processor's tests, because a processor is the client that these tests observe."""

from collections.abc import Iterator

import pytest

from tests.cluster.redis_servers import RedisServer
from tests.processor.conftest import any_group, group, new_pod
from tests.redis_client.script_database import Database, connected

__all__ = ["any_group", "group", "new_pod"]


@pytest.fixture(scope="module")
def module_server() -> Iterator[RedisServer]:
    """A server for all tests of a module, because these tests are many and short."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def database(module_server: RedisServer) -> Iterator[Database]:
    """The empty database of a test that runs single scripts."""
    with connected(module_server) as empty:
        yield empty
