"""An operator that looks at real servers of Redis, and what it says of them."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from tests.cluster.redis_servers import RedisServer
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess, running_operator

POLL_INTERVAL = "1s"
"""How often the operator looks in these tests."""


@contextmanager
def running_with_redis(namespace: Namespace, folder: Path, **settings: Any) -> Iterator[OperatorProcess]:
    told = {"watch_namespaces": namespace.name, "stream_interval": POLL_INTERVAL, **settings}
    with running_operator(namespace.cluster.kubeconfig, folder, **told) as operator:
        yield operator


def redis_client(
    server: RedisServer, **options: Any
) -> Any:  # redis-py types each reply as what it might be in asyncio too
    return Redis(host=server.host, port=server.port, protocol=2, **options)


def manifest_for(
    server: RedisServer, name: str = "orders", *, password: Manifest | None = None, **spec: Any
) -> Manifest:
    ref = {"passwordSecretRef": password} if password else {}
    return manifest(name, redis={"url": f"redis://{server.host}:{server.port}/0", **ref}, **spec)


def wait_for_condition(namespace: Namespace, name: str, kind: str, reason: str) -> Manifest:
    """The condition, once it has this reason."""

    def look() -> Manifest:
        found = namespace.conditions(name)
        assert found.get(kind, {}).get("reason") == reason, found
        return found[kind]

    return eventually(look)


def wait_for_stats(namespace: Namespace, name: str = "orders", **expected: Any) -> Manifest:
    """What the status says of the stream, once it says this."""

    def look() -> Manifest:
        stream: Manifest = namespace.get("StreamConsumer", name).get("status", {}).get("stream", {})
        assert {key: stream.get(key) for key in expected} == expected, stream
        return stream

    return eventually(look, timeout=45)


def create_secret(namespace: Namespace, name: str, **data: str) -> None:
    encoded = {key: b64encode(value.encode()).decode() for key, value in data.items()}
    path = f"/api/v1/namespaces/{namespace.name}/secrets"
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}
    namespace.cluster.request("POST", path, body)


def check_absent(namespace: Namespace, *names: str) -> None:
    assert [name for name in names if namespace.find("StreamConsumer", name)] == []
