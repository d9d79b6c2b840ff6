"""Who a host is, as the pods of a namespace see it. The resolver of a cluster is stood in for: see tests/e2e for a real
one."""

import socket
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.operator.redis_monitor.dns import NamespaceResolver
from streamconsumer.operator.redis_monitor.monitor import _endpoint_id
from streamconsumer.redis_client.pipeline_client import PipelineClient
from tests.cluster.certificates import Authority
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import StartRedis
from tests.model.examples import consumer

SEARCH = ["streamconsumer-system.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that resolve, all to this machine."""
    names: set[str] = set()
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host in names:
            return real("127.0.0.1", *rest, **more)
        if isinstance(host, str) and not host[:1].isdigit() and host != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


@pytest.mark.parametrize(
    ("host", "there", "dialled"),
    [
        ("redis", "redis.shop.svc.cluster.local.", "redis.shop.svc.cluster.local."),
        ("redis-0.redis", "redis-0.redis.shop.svc.cluster.local.", "redis-0.redis.shop.svc.cluster.local."),
        ("redis.shared", "redis.shared.svc.cluster.local.", "redis.shared.svc.cluster.local."),
        ("cache01", "cache01.corp.example.", "cache01.corp.example."),
        ("redis", "redis.streamconsumer-system.svc.cluster.local.", "redis."),
        ("redis.shared.svc", "", "redis.shared.svc"),
        ("10.0.0.7", "", "10.0.0.7"),
        ("fd00::1", "", "fd00::1"),
        ("localhost", "", "localhost"),
    ],
)
async def test_a_host_is_who_it_is_in_the_namespace_of_the_pods(
    known: set[str], host: str, there: str, dialled: str
) -> None:
    known.add(there)
    assert await NamespaceResolver("shop", SEARCH).resolve(host, 6379) == dialled


async def test_outside_a_cluster_hosts_are_as_they_are_written(known: set[str]) -> None:
    known.add("redis.corp.example.")
    assert await NamespaceResolver("shop", ["corp.example"]).resolve("redis", 6379) == "redis"


def test_namespaces_share_a_connection_only_where_the_host_is_the_same_in_both() -> None:
    def identities(url: str) -> set[Any]:
        return {_endpoint_id(consumer(namespace=each, redis={"url": url})) for each in ("shop", "office")}

    assert len(identities("redis://redis:6379/0")) == 2
    assert len(identities("redis://redis-0.redis:6379/0")) == 2
    assert len(identities("redis://redis.shared.svc:6379/0")) == 1
    assert len(identities("redis://10.0.0.7:6379/0")) == 1


async def test_a_certificate_is_held_against_the_host_as_it_is_written(
    known: set[str], tmp_path: Path, start_redis: StartRedis
) -> None:
    known.add("redis.shop.svc.cluster.local.")
    authority, port = Authority(tmp_path), free_port()
    own = authority.sign("server", alternatives="DNS:redis")
    files = {"tls-cert-file": own.certificate, "tls-key-file": own.key, "tls-ca-cert-file": authority.file}
    given = {name: str(path) for name, path in files.items()}
    start_redis({"tls-port": str(port), "tls-auth-clients": "no", **given})
    settings = RedisSettings(url=f"rediss://redis:{port}/0", tls_ca_file=str(authority.file))
    line = PipelineClient(settings, "orders", NamespaceResolver("shop", SEARCH).resolve)
    assert await line.execute([("PING",)]) == [b"PONG"]
    await line.close()
