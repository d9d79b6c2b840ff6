"""`kubectl streamconsumer dead-letters … --name NAME`: real API server, real Redis, what a person types."""

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
from tests.processor.letters import FIELDS, failure_details

LETTERS = group_key("orders", "billing", "dead-letters")


@pytest.fixture
def guarded(start_redis: StartRedis) -> Iterator[tuple[RedisServer, "Redis"]]:
    """A Redis with a password, the group, and one dead letter of it."""
    server = start_redis({"requirepass": "hunter2"})
    redis = Redis(host=server.host, port=server.port, password="hunter2", protocol=2)
    redis.xgroup_create("orders", "billing", "$", mkstream=True)
    flat = to_fields(FIELDS, failure_details("1-0"))
    redis.xadd(LETTERS, dict(zip(flat[::2], flat[1::2], strict=True)))
    yield server, redis
    redis.close()


def test_the_name_of_a_stream_consumer_is_enough(on_api: Namespace, guarded: tuple[RedisServer, "Redis"]) -> None:
    server, redis = guarded
    create_secret(on_api, "redis", password="hunter2")
    on_api.create(manifest_for(server, password={"name": "redis", "key": "password"}))
    found = run_json(on_api, "dead-letters", "list", "--name", "orders")
    (letter,) = found["deadLetters"]
    shown = run_plugin(on_api, "dead-letters", "show", letter["id"], "--name", "orders")
    assert (shown.returncode, shown.stderr) == (0, "")
    replayed = run_plugin(on_api, "dead-letters", "replay", "--all", "--name", "orders")
    assert (replayed.returncode, replayed.stdout) == (0, "replayed 1 dead letter\n")
    assert (redis.xlen("orders"), redis.xlen(LETTERS)) == (1, 0)
    dropped = run_plugin(on_api, "dead-letters", "drop", "--all", "--yes", "--name", "orders")
    assert (dropped.returncode, dropped.stdout) == (0, "dropped 0 dead letters\n")


def test_another_way_to_the_server_brings_its_own_credentials(
    on_api: Namespace, guarded: tuple[RedisServer, "Redis"]
) -> None:
    server, _ = guarded
    on_api.create(
        manifest(redis={"url": "redis://only-pods-know:6379/0", "passwordSecretRef": {"name": "x", "key": "y"}})
    )
    url = f"redis://:hunter2@{server.host}:{server.port}/0"
    found = run_json(on_api, "dead-letters", "list", "--name", "orders", "--redis-url", url)
    assert len(found["deadLetters"]) == 1


def test_a_server_that_only_pods_reach_says_what_to_do(on_api: Namespace) -> None:
    on_api.create(manifest(redis={"url": f"redis://127.0.0.1:{free_port()}/0"}))
    ran = run_plugin(on_api, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 3
    assert "forward a port and give --redis-url, or run the command in a pod" in ran.stderr


def test_a_wrong_password_is_not_taken_for_a_server_that_is_away(
    on_api: Namespace, guarded: tuple[RedisServer, "Redis"]
) -> None:
    server, _ = guarded
    create_secret(on_api, "redis", password="not-this-one")
    on_api.create(manifest_for(server, password={"name": "redis", "key": "password"}))
    ran = run_plugin(on_api, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 3
    assert "the user name or the password is wrong" in ran.stderr
    assert "in a pod" not in ran.stderr
    assert "not-this-one" not in ran.stderr


def test_a_secret_that_is_missing_is_named(on_api: Namespace, redis_server: RedisServer) -> None:
    on_api.create(manifest_for(redis_server, password={"name": "redis", "key": "password"}))
    ran = run_plugin(on_api, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 2
    assert "Secret redis does not exist" in ran.stderr


def test_a_name_that_nobody_has_is_told(on_api: Namespace) -> None:
    ran = run_plugin(on_api, "dead-letters", "list", "--name", "orders")
    assert ran.returncode == 2
    assert f"StreamConsumer {on_api.name}/orders: not found" in ran.stderr
