"""The Redis servers and name servers of one namespace do not delay or fail the polls of another namespace."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from streamconsumer.model.status import StreamReason
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.secret_reader import SecretReader
from streamconsumer.operator.redis_monitor.destinations import Destinations
from streamconsumer.operator.redis_monitor.dns import NameServers
from streamconsumer.operator.redis_monitor.monitor import RedisMonitor
from streamconsumer.operator.redis_monitor.monitored_stream import MonitoredStream, ObservationEffect, PollTarget
from streamconsumer.operator.redis_monitor.namespace_network import MAX_CONCURRENT_POLLS, MAX_KEPT_CONNECTIONS
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import consumer
from tests.operator.foreign_server import foreign_server
from tests.operator.name_server import running_name_server

SLOW_ENDPOINTS = 500
MANY_ENDPOINTS = 600
SAMPLES = 10
OPEN_FILES = 512
TIMEOUT_SECONDS = 120
LOAD_SECONDS = 2.0
"""Delay that other load on the machine may cause. A silent server that delayed a poll would delay it by 10 s."""


class Monitor(RedisMonitor):
    """Monitor of an operator without an API server, and its observations."""

    def __init__(self, interval: timedelta, *, scaled_to_zero: bool = False) -> None:
        secrets = SecretReader.__new__(SecretReader)  # not connected: there are no Secrets to read
        destinations = Destinations([ip_network("127.0.0.0/8")])
        super().__init__(secrets, lambda _: None, interval=interval, destinations=destinations)
        self.effect = ObservationEffect(scaled_to_zero=scaled_to_zero)
        self.streams: dict[Key, MonitoredStream] = {}

    def add(self, namespace: str, name: str, url: str) -> None:
        item = consumer(name, namespace, redis={"url": url})
        target = PollTarget.from_consumer(item, frozenset({"a-pod"}), None)
        self.streams[namespace, name] = self.watch(None, item, target, lambda _: self.effect)

    def reason(self, key: Key) -> StreamReason | None:
        latest = self.streams[key].latest
        return StreamReason(latest.conditions[0].reason) if latest else None

    async def wait_for(self, reason: StreamReason, *keys: Key) -> float:
        """Wait until the streams have this reason. Returns the seconds that this took."""
        started = time.monotonic()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while any(self.reason(key) is not reason for key in keys):  # noqa: ASYNC110 - the monitor sets no event
                await asyncio.sleep(0.005)
        return time.monotonic() - started

    async def seconds_until_connected(self, name: str, url: str) -> float:
        self.add("shop", name, url)
        return await self.wait_for(StreamReason.CONNECTED, ("shop", name))


@asynccontextmanager
async def running_monitor(interval: timedelta, *, scaled_to_zero: bool = False) -> AsyncIterator[Monitor]:
    monitor = Monitor(interval, scaled_to_zero=scaled_to_zero)
    try:
        yield monitor
    finally:
        await monitor.aclose()


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """A limit of open files that the connections to MANY_ENDPOINTS would exceed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def many_addresses(start_redis: StartRedis) -> RedisServer:
    """A server at all loopback addresses."""
    return start_redis({"bind": "0.0.0.0", "protected-mode": "no"})


def count_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def address(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


def url_of(server: RedisServer, host: str = "127.0.0.1") -> str:
    return f"redis://{host}:{server.port}/0"


async def median_until_connected(monitor: Monitor, server: RedisServer, prefix: str) -> float:
    """Each endpoint has an address of its own, so that each needs a connection."""
    hosts = [f"127.{2 if prefix == 'before' else 3}.0.{number + 1}" for number in range(SAMPLES)]
    samples = [await monitor.seconds_until_connected(f"{prefix}-{host}", url_of(server, host)) for host in hosts]
    return sorted(samples)[SAMPLES // 2]


async def test_slow_servers_delay_only_their_namespace(many_addresses: RedisServer) -> None:
    with foreign_server(host="0.0.0.0") as silent:
        async with running_monitor(timedelta(seconds=1)) as monitor:
            before = await median_until_connected(monitor, many_addresses, "before")
            for number in range(SLOW_ENDPOINTS):
                monitor.add("hostile", f"slow-{number}", f"redis://{address(number)}:{silent.port}/0")
            await monitor.wait_for(StreamReason.UNREACHABLE, ("hostile", "slow-0"))
            during = await median_until_connected(monitor, many_addresses, "during")
            assert silent.connections >= MAX_CONCURRENT_POLLS
    assert during <= 2 * before + LOAD_SECONDS, (before, during)


async def test_silent_name_servers_delay_only_their_namespace(many_addresses: RedisServer) -> None:
    with running_name_server() as name_server:
        name_server.silent.add("silent.example")
        async with running_monitor(timedelta(seconds=1)) as monitor:
            monitor._name_servers = NameServers([name_server.address])
            for number in range(SAMPLES):
                name_server.add(f"before{number}.example", address(number))
                name_server.add(f"during{number}.example", address(number))

            async def median(prefix: str) -> float:
                urls = [url_of(many_addresses, f"{prefix}{number}.example.") for number in range(SAMPLES)]
                samples = [
                    await monitor.seconds_until_connected(f"{prefix}-{number}", url) for number, url in enumerate(urls)
                ]
                return sorted(samples)[SAMPLES // 2]

            before = await median("before")
            for number in range(SLOW_ENDPOINTS):
                monitor.add("hostile", f"slow-{number}", f"redis://h{number}.silent.example.:6379/0")
            await monitor.wait_for(StreamReason.UNREACHABLE, ("hostile", "slow-0"))
            during = await median("during")
    assert during <= 2 * before + LOAD_SECONDS, (before, during)


@pytest.mark.usefixtures("few_open_files")
async def test_many_endpoints_of_one_namespace_leave_open_files_for_others(many_addresses: RedisServer) -> None:
    files_before = count_open_files()
    async with running_monitor(timedelta(seconds=1), scaled_to_zero=True) as monitor:
        for number in range(MANY_ENDPOINTS):
            monitor.add("hostile", f"many-{number}", url_of(many_addresses, address(number)))
        await monitor.seconds_until_connected("orders", url_of(many_addresses))
        await monitor.wait_for(StreamReason.CONNECTED, *monitor.streams)
        used = count_open_files() - files_before
        assert used <= 2 * (MAX_KEPT_CONNECTIONS + 1) + 2 * MAX_CONCURRENT_POLLS


@pytest.mark.usefixtures("few_open_files")
async def test_endpoints_of_many_namespaces_leave_open_files_for_the_api_server(many_addresses: RedisServer) -> None:
    files_before = count_open_files()
    async with running_monitor(timedelta(seconds=1), scaled_to_zero=True) as monitor:
        for number in range(MANY_ENDPOINTS):
            monitor.add(f"hostile-{number % 25}", f"many-{number}", url_of(many_addresses, address(number)))
        measuring = asyncio.create_task(most_open_files())
        await monitor.seconds_until_connected("orders", url_of(many_addresses))
        await monitor.wait_for(StreamReason.CONNECTED, *monitor.streams)
        await asyncio.sleep(3)  # several polls of each endpoint
        measuring.cancel()
        kept = sum(poller._may_keep for poller, _ in monitor._pollers.values())
        assert kept == OPEN_FILES // 8
        assert await measuring - files_before <= OPEN_FILES // 2
        assert {monitor.reason(key) for key in monitor.streams} == {StreamReason.CONNECTED}


async def most_open_files() -> int:
    """Return the largest number of open files until the task is cancelled."""
    most = 0
    with suppress(asyncio.CancelledError):
        while True:
            most = max(most, count_open_files())
            await asyncio.sleep(0.02)
    return most


@pytest.mark.usefixtures("few_open_files")
async def test_silent_servers_of_many_namespaces_do_not_delay_endpoints_that_keep_their_connections(
    many_addresses: RedisServer,
) -> None:
    with foreign_server(host="0.0.0.0") as silent:
        async with running_monitor(timedelta(seconds=1)) as monitor:
            await monitor.seconds_until_connected("orders", url_of(many_addresses))
            for number in range(SLOW_ENDPOINTS):
                monitor.add(f"hostile-{number % 25}", f"slow-{number}", f"redis://{address(number)}:{silent.port}/0")
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not monitor._limits.polls.locked():  # noqa: ASYNC110 - the monitor sets no event
                    await asyncio.sleep(0.005)
            seen = monitor.streams["shop", "orders"].latest
            started = time.monotonic()
            while monitor.streams["shop", "orders"].latest is seen:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert time.monotonic() - started < 5, "a poll of a silent server ends after 10 s"


async def test_endpoint_keeps_its_connection_after_others_have_ended(many_addresses: RedisServer) -> None:
    async with running_monitor(timedelta(seconds=1)) as monitor:
        for number in range(MAX_KEPT_CONNECTIONS + 1):
            monitor.add("shop", f"many-{number}", url_of(many_addresses, address(number)))
        await monitor.wait_for(StreamReason.CONNECTED, *monitor.streams)
        kept = [poller for poller, _ in monitor._pollers.values() if poller._may_keep]
        assert len(kept) == MAX_KEPT_CONNECTIONS
        monitor.unwatch(next(stream for stream in monitor.streams.values() if stream.key in kept[0].streams))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not all(poller._may_keep for poller, _ in monitor._pollers.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
