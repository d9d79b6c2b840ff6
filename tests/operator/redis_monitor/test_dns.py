"""Resolution of host names as in the pods of a namespace. The resolver is a fake; tests/e2e uses a real one."""

import socket
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.operator.redis_monitor.dns import NamespaceResolver
from streamconsumer.redis_client.pipeline_client import PipelineClient
from tests.cluster.certificates import Authority
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import StartRedis

SEARCH = ["streamconsumer-system.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]


@pytest.fixture
def resolvable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that resolve to the loopback address."""
    names: set[str] = set()
    real = socket.getaddrinfo

    def fake_getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if host in names:
            return real("127.0.0.1", *rest, **more)
        if isinstance(host, str) and not host[:1].isdigit() and host != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", fake_getaddrinfo)
    return names


@pytest.mark.parametrize(
    ("host", "existing", "resolved"),
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
async def test_host_is_resolved_in_the_namespace_of_the_pods(
    resolvable: set[str], host: str, existing: str, resolved: str
) -> None:
    resolvable.add(existing)
    assert await NamespaceResolver("shop", SEARCH).resolve(host, 6379) == resolved


async def test_host_is_unchanged_outside_a_cluster(resolvable: set[str]) -> None:
    resolvable.add("redis.corp.example.")
    assert await NamespaceResolver("shop", ["corp.example"]).resolve("redis", 6379) == "redis"


async def test_certificate_is_verified_with_the_host_in_the_url(
    resolvable: set[str], tmp_path: Path, start_redis: StartRedis
) -> None:
    resolvable.add("redis.shop.svc.cluster.local.")
    authority, port = Authority(tmp_path), free_port()
    server = authority.sign("server", alternatives="DNS:redis")
    files = {"tls-cert-file": server.certificate, "tls-key-file": server.key, "tls-ca-cert-file": authority.file}
    start_redis({"tls-port": str(port), "tls-auth-clients": "no", **files})
    settings = RedisSettings(url=f"rediss://redis:{port}/0", tls_ca_file=str(authority.file))
    client = PipelineClient(settings, "orders", NamespaceResolver("shop", SEARCH).resolve)
    assert await client.execute([("PING",)]) == [b"PONG"]
    await client.close()
