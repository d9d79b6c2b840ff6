"""An operator that polls real Redis servers, and checks of its conditions and statistics."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from tests.cluster.redis_servers import RedisServer
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess, running_operator

POLL_INTERVAL = "1s"
"""The poll interval of the operator in these tests."""


@contextmanager
def running_with_redis(namespace: Namespace, folder: Path, **settings: Any) -> Iterator[OperatorProcess]:
    variables = {"watch_namespaces": namespace.name, "stream_interval": POLL_INTERVAL, **settings}
    with running_operator(namespace.cluster.kubeconfig, folder, **variables) as operator:
        yield operator


def redis_client(server: RedisServer, **options: Any) -> Any:  # redis-py types each reply as a union with an awaitable
    return Redis(host=server.host, port=server.port, protocol=2, **options)


def manifest_for(
    server: RedisServer, name: str = "orders", *, password: Manifest | None = None, **spec: Any
) -> Manifest:
    ref = {"passwordSecretRef": password} if password else {}
    return manifest(name, redis={"url": f"redis://{server.host}:{server.port}/0", **ref}, **spec)


def create_group(server: RedisServer, stream: str = "orders", group: str = "billing", **options: Any) -> None:
    """Create the consumer group, as a pod does."""
    with closing(redis_client(server, **options)) as redis:
        redis.xgroup_create(stream, group, "0", mkstream=True)


def wait_for_condition(namespace: Namespace, name: str, kind: str, reason: str) -> Manifest:
    """Wait until the condition has this reason. Returns the condition."""

    def check() -> Manifest:
        conditions = namespace.conditions(name)
        assert conditions.get(kind, {}).get("reason") == reason, conditions
        return conditions[kind]

    return eventually(check)


def wait_for_stats(namespace: Namespace, name: str = "orders", **expected: Any) -> Manifest:
    """Wait until the statistics of the stream have these values. Returns the statistics."""

    def check() -> Manifest:
        stream: Manifest = namespace.get("StreamConsumer", name).get("status", {}).get("stream", {})
        assert {key: stream.get(key) for key in expected} == expected, stream
        return stream

    return eventually(check, timeout=45)


def create_secret(namespace: Namespace, name: str, **data: str) -> None:
    encoded = {key: b64encode(value.encode()).decode() for key, value in data.items()}
    path = f"/api/v1/namespaces/{namespace.name}/secrets"
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}
    namespace.cluster.request("POST", path, body)


def check_absent(namespace: Namespace, *names: str) -> None:
    assert [name for name in names if namespace.find("StreamConsumer", name)] == []
