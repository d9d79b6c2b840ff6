"""`kubectl streamconsumer group delete NAME` with a real API server and a real Redis."""

from collections.abc import Iterator
from typing import Any

import pytest

from streamconsumer.redis_client.keys import group_key
from tests.cli.plugin import run_json, run_plugin
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest
from tests.operator.namespace import Namespace
from tests.operator.redis_operator import create_secret, manifest_for, redis_client

POSTPONED_KEY = group_key("orders", "billing", "postponed")


@pytest.fixture
def protected_redis(start_redis: StartRedis) -> Iterator[tuple[RedisServer, Any]]:
    """A Redis with a password, the group, a companion key, and a dead letter in the stream `graves`."""
    server = start_redis({"requirepass": "hunter2"})
    redis = redis_client(server, password="hunter2")
    redis.xgroup_create("orders", "billing", "$", mkstream=True)
    redis.zadd(POSTPONED_KEY, {"1-0": 1})
    redis.xadd("graves", {"n": 1})
    yield server, redis
    redis.close()


def protected_manifest(server: RedisServer, **spec: Any) -> dict[str, Any]:
    password = {"name": "redis", "key": "password"}
    return manifest_for(server, password=password, delivery={"deadLetterStream": "graves", "minIdle": "1h"}, **spec)


def test_name_of_a_suspended_stream_consumer_selects_the_group(
    api_namespace: Namespace, protected_redis: tuple[RedisServer, Any]
) -> None:
    server, redis = protected_redis
    create_secret(api_namespace, "redis", password="hunter2")
    api_namespace.create(protected_manifest(server, suspend=True))
    deleted = run_json(api_namespace, "group", "delete", "orders", "--yes")
    assert (deleted["groupDeleted"], deleted["companionKeysDeleted"]) == (True, 1)
    assert (deleted["deadLetterStream"], deleted["deadLetters"]) == ("graves", 1)
    assert redis.xinfo_groups("orders") == []
    assert redis.exists("orders", "graves", POSTPONED_KEY) == 2
    again = run_plugin(api_namespace, "group", "delete", "orders", "--yes")
    assert again.returncode == 2
    assert "does not exist and has no companion keys" in again.stderr


def test_group_of_an_active_stream_consumer_is_kept(
    api_namespace: Namespace, protected_redis: tuple[RedisServer, Any]
) -> None:
    server, redis = protected_redis
    create_secret(api_namespace, "redis", password="hunter2")
    api_namespace.create(protected_manifest(server))
    ran = run_plugin(api_namespace, "group", "delete", "orders", "--yes")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "StreamConsumer orders is not suspended; suspend or delete the StreamConsumer" in ran.stderr
    assert len(redis.xinfo_groups("orders")) == 1
    assert redis.exists(POSTPONED_KEY)


def test_min_idle_of_the_stream_consumer_defines_live_consumers(
    api_namespace: Namespace, protected_redis: tuple[RedisServer, Any]
) -> None:
    server, redis = protected_redis
    create_secret(api_namespace, "redis", password="hunter2")
    api_namespace.create(protected_manifest(server, suspend=True))
    redis.xadd("orders", {"n": 1})
    redis.xreadgroup("billing", "orders-consumer-a", {"orders": ">"})
    ran = run_plugin(api_namespace, "group", "delete", "orders", "--yes")
    assert ran.returncode == 1
    assert "found the live consumers 'orders-consumer-a', expected none" in ran.stderr
    assert len(redis.xinfo_groups("orders")) == 1


def test_redis_url_replaces_the_server_and_the_credentials(
    api_namespace: Namespace, protected_redis: tuple[RedisServer, Any]
) -> None:
    server, redis = protected_redis
    reference = {"name": "x", "key": "y"}
    api_namespace.create(
        manifest(redis={"url": "redis://only-pods:6379/0", "passwordSecretRef": reference}, suspend=True)
    )
    url = f"redis://:hunter2@{server.host}:{server.port}/0"
    ran = run_plugin(api_namespace, "group", "delete", "orders", "--yes", "--redis-url", url)
    assert ran.returncode == 0, ran.stderr
    assert "hunter2" not in ran.stdout + ran.stderr
    assert redis.xinfo_groups("orders") == []


def test_missing_stream_consumer_is_reported(api_namespace: Namespace) -> None:
    ran = run_plugin(api_namespace, "group", "delete", "orders", "--yes")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"StreamConsumer {api_namespace.name}/orders: not found" in ran.stderr


def test_unreachable_server_is_reported_with_the_remedy(api_namespace: Namespace) -> None:
    api_namespace.create(manifest(redis={"url": "redis://127.0.0.1:1/0"}, suspend=True))
    ran = run_plugin(api_namespace, "group", "delete", "orders", "--yes")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "if the server is reachable only from pods, forward a port and give --redis-url" in ran.stderr
