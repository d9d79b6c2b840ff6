"""Resolution of host names as in the pods of a namespace, with a name server on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from itertools import cycle
from pathlib import Path

import pytest

from streamconsumer.errors import DestinationNotAllowed, HostNotResolved
from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.operator.redis_monitor import dns
from streamconsumer.operator.redis_monitor.destinations import Destinations
from streamconsumer.operator.redis_monitor.dns import (
    NameServers,
    NamespaceResolver,
    SearchOptions,
    absolute_names,
    read_search_options,
)
from streamconsumer.redis_client.credentials import RedisCredentials
from streamconsumer.redis_client.pipeline_client import PipelineClient
from tests.cluster.certificates import Authority
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import StartRedis
from tests.operator.name_server import NameServer, running_name_server

SYSTEM_SEARCH = SearchOptions(
    ("streamconsumer-system.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"), ndots=5
)
LOOPBACK = Destinations([ip_network("127.0.0.0/8")])


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    with running_name_server() as server:
        yield server


@pytest.fixture
async def servers(name_server: NameServer) -> AsyncIterator[NameServers]:
    servers = NameServers([name_server.address])
    yield servers
    await servers.aclose()


def resolver_for(
    servers: NameServers, destinations: Destinations | None = None, search: SearchOptions = SYSTEM_SEARCH
) -> NamespaceResolver:
    return NamespaceResolver("shop", servers, destinations or Destinations(), search)


@pytest.mark.parametrize(
    ("host", "existing"),
    [
        ("redis", "redis.shop.svc.cluster.local"),
        ("redis-0.redis", "redis-0.redis.shop.svc.cluster.local"),
        ("redis.shared", "redis.shared.svc.cluster.local"),
        ("redis.shared.svc", "redis.shared.svc.cluster.local"),
        ("redis.shared.svc.cluster.local", "redis.shared.svc.cluster.local"),
        ("cache01", "cache01.corp.example"),
        ("redis.example.com", "redis.example.com"),
        ("redis.example.com.", "redis.example.com"),
        ("redis", "redis"),
    ],
)
async def test_host_is_resolved_in_the_namespace_of_the_pods(
    name_server: NameServer, servers: NameServers, host: str, existing: str
) -> None:
    name_server.add(existing, "10.0.0.7")
    assert await resolver_for(servers).resolve(host, 6379) == ["10.0.0.7"]


@pytest.mark.parametrize("host", ["10.0.0.7", "fd00::1"])
async def test_address_needs_no_name_server(name_server: NameServer, servers: NameServers, host: str) -> None:
    assert await resolver_for(servers).resolve(host, 6379) == [host]
    assert name_server.queries == []


async def test_service_in_the_namespace_of_the_operator_is_not_found(
    name_server: NameServer, servers: NameServers
) -> None:
    name_server.add("redis.streamconsumer-system.svc.cluster.local", "10.0.0.7")
    with pytest.raises(HostNotResolved, match="the host name does not exist"):
        await resolver_for(servers).resolve("redis", 6379)


async def test_all_addresses_are_returned_in_order(name_server: NameServer, servers: NameServers) -> None:
    name_server.add("redis.shop.svc.cluster.local", "10.0.0.7", "10.0.0.8", "fd00::7")
    assert set(await resolver_for(servers).resolve("redis", 6379)) == {"10.0.0.7", "10.0.0.8", "fd00::7"}


def test_host_is_unchanged_outside_a_cluster() -> None:
    assert absolute_names("redis", SearchOptions()) == ["redis"]
    resolver = NamespaceResolver("shop", NameServers(), Destinations(), SearchOptions(("corp.example",)))
    assert resolver._search.domains == ()


def test_localhost_is_not_looked_up_in_the_search_domains() -> None:
    assert absolute_names("localhost", SYSTEM_SEARCH) == ["localhost"]


def test_host_with_enough_dots_is_first_looked_up_as_an_absolute_name() -> None:
    assert absolute_names("a.b", SearchOptions(("x.svc.y",), ndots=1)) == ["a.b.", "a.b.x.svc.y."]
    assert absolute_names("a.b", SearchOptions(("x.svc.y",), ndots=5)) == ["a.b.x.svc.y.", "a.b."]


def test_search_options_of_the_kubelet_are_read(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search old\nnameserver 10.96.0.10\nsearch a.svc.b svc.b b.\noptions ndots:5 edns0\n")
    assert read_search_options(file) == SearchOptions(("a.svc.b", "svc.b", "b"), 5)
    assert read_search_options(tmp_path / "missing") == SearchOptions()


@pytest.mark.parametrize("host", ["redis\n", "a b", "", "-x", "redis/0", "x" * 300, "rédis", "a\x00b"])
async def test_invalid_host_name_is_not_looked_up(name_server: NameServer, servers: NameServers, host: str) -> None:
    with pytest.raises(HostNotResolved, match="neither a valid host name nor an IP address"):
        await resolver_for(servers).resolve(host, 6379)
    assert name_server.queries == []


@pytest.mark.parametrize("port", [0, -1, 65536, 10**400])
async def test_invalid_port_is_an_error(name_server: NameServer, servers: NameServers, port: int) -> None:
    with pytest.raises(HostNotResolved, match="expected 1 to 65535"):
        await resolver_for(servers).resolve("10.0.0.7", port)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1"])
async def test_name_of_a_refused_address_is_refused(
    name_server: NameServer, servers: NameServers, address: str
) -> None:
    name_server.add("redis.example.com", address)
    with pytest.raises(DestinationNotAllowed, match="allowedDestinations"):
        await resolver_for(servers).resolve("redis.example.com", 6379)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.1", "0", "2130706433", "::1%lo"])
async def test_loopback_is_refused_in_every_form(name_server: NameServer, servers: NameServers, host: str) -> None:
    with pytest.raises(DestinationNotAllowed):
        await resolver_for(servers).resolve(host, 6379)


async def test_refusal_is_the_same_for_every_port(name_server: NameServer, servers: NameServers) -> None:
    messages = set()
    for port in (1, 22, 6379, 65535):
        with pytest.raises(DestinationNotAllowed) as caught:
            await resolver_for(servers).resolve("127.0.0.1", port)
        messages.add(str(caught.value))
    assert len(messages) == 1


async def test_refused_addresses_of_a_host_are_left_out(name_server: NameServer, servers: NameServers) -> None:
    name_server.add("redis.example.com", "127.0.0.1", "10.0.0.7")
    assert await resolver_for(servers).resolve("redis.example.com", 6379) == ["10.0.0.7"]


async def test_alternating_answers_are_all_checked(name_server: NameServer, servers: NameServers) -> None:
    """DNS rebinding: the connection uses the address that was checked, and each connection checks a new address."""
    answers = cycle([("10.0.0.7",), ("127.0.0.1",)])
    current = [next(answers)]
    name_server.records["redis.example.com"] = lambda: current[0]
    resolver = resolver_for(servers)
    for _ in range(3):
        assert await resolver.resolve("redis.example.com.", 6379) == ["10.0.0.7"]
        current[0] = next(answers)
        with pytest.raises(DestinationNotAllowed):
            await resolver.resolve("redis.example.com.", 6379)
        current[0] = next(answers)


async def test_silent_search_domain_does_not_lead_to_another_host(
    name_server: NameServer, servers: NameServers
) -> None:
    name_server.silent.add("shop.svc.cluster.local")
    name_server.add("redis.svc.cluster.local", "10.0.0.66")
    with pytest.raises(HostNotResolved, match="name servers"):
        await resolver_for(servers).resolve("redis", 6379)


async def test_silent_names_of_one_tenant_do_not_delay_other_look_ups(
    name_server: NameServer, servers: NameServers
) -> None:
    name_server.silent.add("silent.example")
    name_server.add("redis.shop.svc.cluster.local", "10.0.0.7")
    shop = NamespaceResolver("shop", servers, Destinations(), SYSTEM_SEARCH)
    other = NamespaceResolver("other", servers, Destinations(), SYSTEM_SEARCH)
    silent = [asyncio.create_task(other.resolve(f"h{n}.silent.example.", 6379)) for n in range(500)]
    await asyncio.sleep(0)
    started = time.monotonic()
    assert await shop.resolve("redis", 6379) == ["10.0.0.7"]
    elapsed = time.monotonic() - started
    assert not any(task.done() for task in silent)
    assert elapsed < dns.QUERY_TIMEOUT_SECONDS
    results = await asyncio.gather(*silent, return_exceptions=True)
    assert all(isinstance(result, HostNotResolved) for result in results)


async def test_channel_is_replaced_without_losing_running_look_ups(
    name_server: NameServer, servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "QUERIES_PER_CHANNEL", 3)
    for number in range(50):
        name_server.add(f"h{number}.example", "10.0.0.7")
    results = await asyncio.gather(*(servers.look_up(f"h{number}.example.") for number in range(50)))
    assert {str(address) for addresses in results for address in addresses} == {"10.0.0.7"}
    assert all(results)


async def test_certificate_is_verified_with_the_host_in_the_url(
    name_server: NameServer, servers: NameServers, tmp_path: Path, start_redis: StartRedis
) -> None:
    name_server.add("redis.shop.svc.cluster.local", "127.0.0.1")
    authority, port = Authority(tmp_path), free_port()
    server = authority.sign("server", alternatives="DNS:redis")
    files = {"tls-cert-file": server.certificate, "tls-key-file": server.key, "tls-ca-cert-file": authority.file}
    start_redis({"tls-port": str(port), "tls-auth-clients": "no", **files})
    settings = RedisSettings(url=f"rediss://redis:{port}/0", tls_ca_file=str(authority.file))
    client = PipelineClient(RedisCredentials(settings, resolver_for(servers, LOOPBACK).resolve), "orders")
    assert await client.execute([("PING",)]) == [b"PONG"]
    await client.close()
