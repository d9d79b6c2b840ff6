"""Servers that restart, lose data or fail over: no entry that Redis still has is lost, and none is stuck."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.cluster.redis_servers import StartRedis
from tests.cluster.runs import wait_until
from tests.reliability.clusters import Cluster, Sentinel
from tests.reliability.faults import DURABLE, ServerPair
from tests.reliability.fork_server import ForkServer
from tests.reliability.ledger import Account
from tests.reliability.proxy import Proxy
from tests.reliability.scenario import Scenario
from tests.reliability.traffic import Producer


class LoadScenario(Scenario):
    """Two pods under load behind a proxy."""

    def run_load(self, client: Callable[[], Redis], *, replicas: int = 0) -> Producer:
        for name in ("pod-a", "pod-b"):
            self.start_pod(name)
        return Producer(self.ledger, client, random.Random(5), replicas=replicas)

    def wait_for_progress(self, count: int = 40, within: float = 60.0) -> None:
        """Wait until `count` more messages have been handled."""
        target = len(self.ledger.lines("done")) + count
        assert wait_until(lambda: len(self.ledger.lines("done")) >= target, within), self.pod_logs()


NewLoad = Callable[[Redis, str], LoadScenario]


@pytest.fixture
def new_load(fork_server: ForkServer, tmp_path: Path) -> Iterator[NewLoad]:
    loads: list[LoadScenario] = []

    def new(client: Redis, url: str) -> LoadScenario:
        loads.append(LoadScenario(fork_server, client, url, tmp_path))
        return loads[-1]

    yield new
    for scenario in loads:
        for pod in scenario.pods:
            pod.remove()


def connected(url: str) -> Redis:
    return Redis.from_url(url, decode_responses=True, retry=None, socket_timeout=5)


@pytest.mark.chaos
def test_kill_of_a_durable_server_loses_nothing(start_redis: StartRedis, new_load: NewLoad) -> None:
    server = start_redis(DURABLE)
    scenario = new_load(connected(server.url), server.url)
    with scenario.run_load(lambda: scenario.client):
        for _ in range(2):
            scenario.wait_for_progress()
            server.kill()
            server.start()
        scenario.wait_for_progress()
    account: Account = scenario.wait_settled()
    assert not account.trimmed


@pytest.mark.chaos
def test_processing_continues_after_the_server_lost_all_data(start_redis: StartRedis, new_load: NewLoad) -> None:
    server = start_redis()
    scenario = new_load(connected(server.url), server.url)
    with scenario.run_load(lambda: scenario.client):
        for _ in range(2):
            scenario.wait_for_progress()
            server.kill()
            server.start()
            scenario.ledger.record_server_losses(scenario.client)
            scenario.wait_for_progress()
    account: Account = scenario.wait_settled()
    assert len(account.trimmed) < 20, "handled messages must not count as lost"


@pytest.mark.chaos
def test_promotion_of_a_replica_under_load_loses_nothing_it_confirmed(new_load: NewLoad) -> None:
    server_pair = ServerPair()
    try:
        scenario = new_load(server_pair.client, server_pair.proxy.url)
        with scenario.run_load(lambda: server_pair.client, replicas=1):
            for _ in range(3):
                scenario.wait_for_progress()
                server_pair.wait_in_sync()
                server_pair.promote()
                scenario.client = server_pair.client
            scenario.wait_for_progress()
        account: Account = scenario.wait_settled()
        assert not account.trimmed
    finally:
        server_pair.close()


def test_failover_by_sentinel_loses_nothing_the_replica_had(start_redis: StartRedis, new_load: NewLoad) -> None:
    """The pods use one address that follows the primary: a Service, or a proxy."""
    old = start_redis()
    new = start_redis({"replicaof": f"{old.host} {old.port}"})
    clients = [connected(old.url), connected(new.url)]
    with Sentinel(old) as sentinel, Proxy(old.host, old.port) as proxy:
        assert wait_until(sentinel.has_replica, 60)
        scenario = new_load(clients[0], proxy.url)
        with scenario.run_load(lambda: scenario.client, replicas=1) as traffic:
            scenario.wait_for_progress()
            old.kill()
            assert wait_until(lambda: sentinel.primary() == (new.host, new.port), 60)
            proxy.set_target(new.host, new.port)
            traffic.stop_waiting_for_replicas()
            scenario.client = clients[1]
            scenario.wait_for_progress()
        account: Account = scenario.wait_settled()
        assert not account.trimmed


@pytest.mark.chaos
def test_moving_a_cluster_slot_under_load_loses_nothing(new_load: NewLoad) -> None:
    """While the slot moves, the nodes reply MOVED, ASK and TRYAGAIN."""
    cluster = Cluster()
    first, second = cluster.nodes
    try:
        with Proxy(first.host, first.port) as proxy:
            scenario = new_load(cluster.clients[0], proxy.url)
            with scenario.run_load(lambda: scenario.client):
                scenario.wait_for_progress()
                cluster.move_slot_of(scenario.stream)
                scenario.client = cluster.clients[1]
                proxy.set_target(second.host, second.port)
                scenario.wait_for_progress()
            scenario.wait_settled()
    finally:
        cluster.remove()
