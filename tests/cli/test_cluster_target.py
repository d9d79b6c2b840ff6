"""Target of a StreamConsumer in the cluster: `dead-letters … --name NAME` with a real API server and a real Redis."""

from collections.abc import Iterator

import pytest
from redis import Redis

from streamconsumer.processor.dead_letters.record import to_fields
from streamconsumer.redis_client.keys import group_key
from tests.cli.plugin import run_json, run_plugin
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest
from tests.operator.namespace import Namespace
from tests.operator.redis_operator import create_secret, manifest_for
from tests.processor.dead_letters.dead_letter_factory import FIELDS, failure_details

DEAD_LETTERS = group_key("orders", "billing", "dead-letters")


@pytest.fixture
def protected_redis(start_redis: StartRedis) -> Iterator[tuple[RedisServer, "Redis"]]:
    """A Redis with a password, the group and one of its dead letters."""
    server = start_redis({"requirepass": "hunter2"})
    redis = Redis(host=server.host, port=server.port, password="hunter2", protocol=2)
    redis.xgroup_create("orders", "billing", "$", mkstream=True)
    fields = to_fields(FIELDS, failure_details("1-0"))
    redis.xadd(DEAD_LETTERS, dict(zip(fields[::2], fields[1::2], strict=True)))
    yield server, redis
    redis.close()


def test_name_of_a_stream_consumer_selects_server_group_and_credentials(
    api_namespace: Namespace, protected_redis: tuple[RedisServer, "Redis"]
) -> None:
    server, redis = protected_redis
    create_secret(api_namespace, "redis", password="hunter2")
    api_namespace.create(manifest_for(server, password={"name": "redis", "key": "password"}))
    listed = run_json(api_namespace, "dead-letters", "list", "--name", "orders")
    (dead_letter,) = listed["deadLetters"]
    shown = run_plugin(api_namespace, "dead-letters", "show", dead_letter["id"], "--name", "orders")
    assert (shown.returncode, shown.stderr) == (0, "")
    replayed = run_plugin(api_namespace, "dead-letters", "replay", "--all", "--name", "orders")
    assert (replayed.returncode, replayed.stdout) == (0, "replayed 1 dead letter\n")
    assert (redis.xlen("orders"), redis.xlen(DEAD_LETTERS)) == (1, 0)
    dropped = run_plugin(api_namespace, "dead-letters", "drop", "--all", "--yes", "--name", "orders")
    assert (dropped.returncode, dropped.stdout) == (0, "dropped 0 dead letters\n")


def test_redis_url_replaces_the_server_and_the_credentials(
    api_namespace: Namespace, protected_redis: tuple[RedisServer, "Redis"]
) -> None:
    server, _ = protected_redis
    api_namespace.create(
        manifest(redis={"url": "redis://only-pods-know:6379/0", "passwordSecretRef": {"name": "x", "key": "y"}})
    )
    url = f"redis://:hunter2@{server.host}:{server.port}/0"
    listed = run_json(api_namespace, "dead-letters", "list", "--name", "orders", "--redis-url", url)
    assert len(listed["deadLetters"]) == 1


def test_unreachable_server_is_reported_with_the_remedy(api_namespace: Namespace) -> None:
    api_namespace.create(manifest(redis={"url": f"redis://127.0.0.1:{free_port()}/0"}))
    ran = run_plugin(api_namespace, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 3
    assert "forward a port and give --redis-url, or run the command in a pod" in ran.stderr


def test_wrong_password_is_not_reported_as_an_unreachable_server(
    api_namespace: Namespace, protected_redis: tuple[RedisServer, "Redis"]
) -> None:
    server, _ = protected_redis
    create_secret(api_namespace, "redis", password="not-this-one")
    api_namespace.create(manifest_for(server, password={"name": "redis", "key": "password"}))
    ran = run_plugin(api_namespace, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 3
    assert "the user name or the password is wrong" in ran.stderr
    assert "in a pod" not in ran.stderr
    assert "not-this-one" not in ran.stderr


def test_missing_secret_is_named(api_namespace: Namespace, redis_server: RedisServer) -> None:
    api_namespace.create(manifest_for(redis_server, password={"name": "redis", "key": "password"}))
    ran = run_plugin(api_namespace, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 2
    assert "Secret redis does not exist" in ran.stderr


def test_missing_stream_consumer_is_reported(api_namespace: Namespace) -> None:
    ran = run_plugin(api_namespace, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 2
    assert f"StreamConsumer {api_namespace.name}/orders: not found" in ran.stderr
