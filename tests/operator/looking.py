"""An operator that looks at real servers of Redis, and what it says of them."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from tests.cluster.redis_servers import RedisServer
from tests.model.examples import Manifest, manifest
from tests.operator.operators import OperatorProcess, running
from tests.operator.places import Place, eventually

OFTEN = "1s"
"""How often the operator looks in these tests."""


@contextmanager
def looking(place: Place, folder: Path, **settings: Any) -> Iterator[OperatorProcess]:
    told = {"watch_namespaces": place.namespace, "stream_interval": OFTEN, **settings}
    with running(place.cluster.kubeconfig, folder, **told) as operator:
        yield operator


def client(server: RedisServer, **options: Any) -> Any:  # redis-py types each reply as what it might be in asyncio too
    return Redis(host=server.host, port=server.port, protocol=2, **options)


def at(server: RedisServer, name: str = "orders", *, password: Manifest | None = None, **spec: Any) -> Manifest:
    ref = {"passwordSecretRef": password} if password else {}
    return manifest(name, redis={"url": f"redis://{server.host}:{server.port}/0", **ref}, **spec)


def seen(place: Place, name: str, kind: str, reason: str) -> Manifest:
    """The condition, once it has this reason."""

    def look() -> Manifest:
        found = place.conditions(name)
        assert found.get(kind, {}).get("reason") == reason, found
        return found[kind]

    return eventually(look)


def figures(place: Place, name: str = "orders", **expected: Any) -> Manifest:
    """What the status says of the stream, once it says this."""

    def look() -> Manifest:
        stream: Manifest = place.get("StreamConsumer", name).get("status", {}).get("stream", {})
        assert {key: stream.get(key) for key in expected} == expected, stream
        return stream

    return eventually(look, within=45)


def secret(place: Place, name: str, **data: str) -> None:
    encoded = {key: b64encode(value.encode()).decode() for key, value in data.items()}
    path = f"/api/v1/namespaces/{place.namespace}/secrets"
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}
    place.cluster.request("POST", path, body)


def check_gone(place: Place, *of: str) -> None:
    assert [name for name in of if place.find("StreamConsumer", name)] == []
