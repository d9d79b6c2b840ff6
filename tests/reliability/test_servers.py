"""Servers that restart, forget, hand over to another: nothing that Redis holds is lost, and nothing is stuck."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.cluster.redis_servers import StartRedis
from tests.cluster.runs import wait_until
from tests.reliability.clusters import Cluster, Sentinel
from tests.reliability.faults import DURABLE, ServerPair
from tests.reliability.ledger import Account
from tests.reliability.nursery import ForkServer
from tests.reliability.proxy import Proxy
from tests.reliability.traffic import Producer
from tests.reliability.trial import Scenario


class Load(Scenario):
    """Two pods behind a proxy under load."""

    def under(self, client: Callable[[], Redis], *, replicas: int = 0) -> Producer:
        for name in ("pod-a", "pod-b"):
            self.start_pod(name)
        return Producer(self.ledger, client, random.Random(5), replicas=replicas)

    def goes_on(self, more: int = 40, within: float = 60.0) -> None:
        """Wait until so many more messages have been handled."""
        wanted = len(self.ledger.lines("done")) + more
        assert wait_until(lambda: len(self.ledger.lines("done")) >= wanted, within), self.pod_logs()


@pytest.fixture
def load(nursery: ForkServer, tmp_path: Path) -> Iterator[Callable[[Redis, str], Load]]:
    loads: list[Load] = []

    def new(client: Redis, url: str) -> Load:
        loads.append(Load(nursery, client, url, tmp_path))
        return loads[-1]

    yield new
    for each in loads:
        for pod in each.pods:
            pod.remove()


def connected(url: str) -> Redis:
    return Redis.from_url(url, decode_responses=True, retry=None, socket_timeout=5)


@pytest.mark.chaos
def test_a_server_that_keeps_what_it_confirmed_may_be_killed_at_any_time(start_redis: StartRedis, load: Any) -> None:
    server = start_redis(DURABLE)
    trial = load(connected(server.url), server.url)
    with trial.under(lambda: trial.client):
        for _ in range(2):
            trial.goes_on()
            server.kill()
            server.start()
        trial.goes_on()
    account: Account = trial.end()
    assert not account.trimmed


@pytest.mark.chaos
def test_a_server_that_forgets_everything_begins_a_new_life(start_redis: StartRedis, load: Any) -> None:
    server = start_redis()
    trial = load(connected(server.url), server.url)
    with trial.under(lambda: trial.client):
        for _ in range(2):
            trial.goes_on()
            server.kill()
            server.start()
            trial.ledger.record_server_losses(trial.client)
            trial.goes_on()
    account: Account = trial.end()
    assert len(account.trimmed) < 20, "what had been handled was not lost"


@pytest.mark.chaos
def test_a_replica_that_is_promoted_under_load_has_all_that_it_confirmed(load: Any) -> None:
    world = ServerPair()
    try:
        trial = load(world.client, world.proxy.url)
        with trial.under(lambda: world.client, replicas=1):
            for _ in range(3):
                trial.goes_on()
                world.wait_in_sync()
                world.promote()
                trial.client = world.client
            trial.goes_on()
        account: Account = trial.end()
        assert not account.trimmed
    finally:
        world.close()


def test_a_failover_by_sentinel_loses_nothing_that_the_replica_had(start_redis: StartRedis, load: Any) -> None:
    """The pods know one address, which follows the primary: a Service, or a proxy."""
    old = start_redis()
    new = start_redis({"replicaof": f"{old.host} {old.port}"})
    clients = [connected(old.url), connected(new.url)]
    with Sentinel(old) as sentinel, Proxy(old.host, old.port) as proxy:
        assert wait_until(sentinel.has_replica, 60)
        trial = load(clients[0], proxy.url)
        with trial.under(lambda: trial.client, replicas=1) as traffic:
            trial.goes_on()
            old.kill()
            assert wait_until(lambda: sentinel.primary() == (new.host, new.port), 60)
            proxy.set_target(new.host, new.port)
            traffic.stop_waiting_for_replicas()
            trial.client = clients[1]
            trial.goes_on()
        account: Account = trial.end()
        assert not account.trimmed


@pytest.mark.chaos
def test_a_slot_of_a_cluster_may_move_under_load(load: Any) -> None:
    """Between the two nodes' word on it, commands are told MOVED, ASK and TRYAGAIN."""
    cluster = Cluster()
    first, second = cluster.nodes
    try:
        with Proxy(first.host, first.port) as proxy:
            trial = load(cluster.clients[0], proxy.url)
            with trial.under(lambda: trial.client):
                trial.goes_on()
                cluster.move_slot_of(trial.stream)
                trial.client = cluster.clients[1]
                proxy.set_target(second.host, second.port)
                trial.goes_on()
            trial.end()
    finally:
        cluster.remove()
