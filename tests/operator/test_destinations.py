"""The operator connects only to allowed addresses, and conditions reveal nothing about other servers.

The servers listen on loopback. The setting allowed_destinations contains 127.0.0.1, and 127.0.0.2 is a refused address.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streamconsumer.operator.redis_monitor.probe import NO_REPLY_MESSAGE
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import Manifest, manifest
from tests.operator.foreign_server import ForeignServer, foreign_server
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess
from tests.operator.redis_operator import manifest_for, running_with_redis, wait_for_condition

SLOW_ENDPOINTS = 500
MANY_ENDPOINTS = 1000
OPEN_FILES = 512


@pytest.fixture
def refused() -> Iterator[ForeignServer]:
    """A server at a refused address."""
    with foreign_server(host="127.0.0.2") as server:
        yield server


@pytest.fixture
def operator_with_exception(api_namespace: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    with running_with_redis(api_namespace, tmp_path, allowed_destinations="127.0.0.1/32") as operator:
        yield operator


def bulk(*items: str) -> bytes:
    return b"".join(b"$%d\r\n%s\r\n" % (len(item), item.encode()) for item in items)


def sentinel_reply(host: str, port: int) -> bytes:
    """Replies to HELLO or CLIENT SETINFO, and to SENTINEL GET-MASTER-ADDR-BY-NAME."""
    return b"*2\r\n" + bulk(host, str(port))


def cluster_reply(host: str, port: int) -> bytes:
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + bulk(host) + b":%d\r\n" % port


def create(namespace: Namespace, name: str, **redis: object) -> None:
    namespace.create(manifest(name, redis=redis))


def test_refused_address_gets_no_connection(
    api_namespace: Namespace, operator_with_exception: OperatorProcess, refused: ForeignServer
) -> None:
    hosts = {
        "plain": "127.0.0.2",
        "mapped": "[::ffff:127.0.0.2]",
        "unspecified": "0.0.0.0",
        "metadata": "169.254.169.254",
    }
    for name, host in hosts.items():
        create(api_namespace, name, url=f"redis://{host}:{refused.port}/0")
    for name, host in hosts.items():
        condition = wait_for_condition(api_namespace, name, "RedisReachable", "DestinationNotAllowed")
        assert condition["status"] == "False"
        assert host.strip("[]") in condition["message"]
        assert "allowedDestinations" in condition["message"]
    assert refused.connections == 0


def test_api_server_is_refused_although_its_address_is_allowed(
    api_namespace: Namespace, operator_with_exception: OperatorProcess
) -> None:
    create(api_namespace, "api", url=f"redis://127.0.0.1:{urlsplit(api_namespace.cluster.url).port}/0")
    message = wait_for_condition(api_namespace, "api", "RedisReachable", "DestinationNotAllowed")["message"]
    assert "Kubernetes API server" in message


def test_primary_that_a_sentinel_names_is_checked(
    api_namespace: Namespace, operator_with_exception: OperatorProcess, refused: ForeignServer
) -> None:
    with foreign_server(sentinel_reply("127.0.0.2", refused.port)) as sentinel:
        nodes = [f"127.0.0.1:{sentinel.port}"]
        create(api_namespace, "named", url="redis:///0", sentinel={"masterName": "main", "nodes": nodes})
        create(
            api_namespace, "sentinel", url="redis:///0", sentinel={"masterName": "main", "nodes": ["127.0.0.2:26379"]}
        )
        for name in ("named", "sentinel"):
            message = wait_for_condition(api_namespace, name, "RedisReachable", "DestinationNotAllowed")["message"]
            assert "127.0.0.2" in message
        assert sentinel.connections > 0
    assert refused.connections == 0


def test_primary_that_a_cluster_node_names_is_checked(
    api_namespace: Namespace, operator_with_exception: OperatorProcess, refused: ForeignServer
) -> None:
    with foreign_server(cluster_reply("127.0.0.2", refused.port)) as node:
        create(api_namespace, "cluster", url=f"redis://127.0.0.1:{node.port}/0", cluster=True)
        wait_for_condition(api_namespace, "cluster", "RedisReachable", "DestinationNotAllowed")
        assert node.connections > 0
    assert refused.connections == 0


def test_condition_is_the_same_for_closed_silent_and_foreign_ports(
    api_namespace: Namespace, operator_with_exception: OperatorProcess
) -> None:
    greeting = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"
    with (
        foreign_server() as silent,
        foreign_server(greeting=greeting) as ssh,
        foreign_server(b"HTTP/1.1 400\r\n") as web,
    ):
        ports = {"closed": free_port(), "silent": silent.port, "ssh": ssh.port, "web": web.port}
        for name, port in ports.items():
            create(api_namespace, name, url=f"redis://127.0.0.1:{port}/0")
        for name, port in ports.items():
            message = wait_for_condition(api_namespace, name, "RedisReachable", "Unreachable")["message"]
            assert message == f"127.0.0.1:{port}: {NO_REPLY_MESSAGE}"


def seconds_until_connected(namespace: Namespace, server: RedisServer, name: str) -> float:
    started = time.monotonic()
    namespace.create(manifest_for(server, name))
    wait_for_condition(namespace, name, "RedisReachable", "Connected")
    return time.monotonic() - started


def test_slow_servers_of_one_namespace_do_not_delay_another_namespace(
    api_namespace: Namespace, tmp_path: Path, start_redis: StartRedis
) -> None:
    server = start_redis()
    with fresh_namespace(api_namespace.cluster) as name, foreign_server(host="0.0.0.0") as silent:
        hostile = Namespace(api_namespace.cluster, name)
        watched = f"{api_namespace.name},{name}"
        with running_with_redis(api_namespace, tmp_path, watch_namespaces=watched) as operator:
            before = [seconds_until_connected(api_namespace, server, f"before-{number}") for number in range(5)]
            for number in range(SLOW_ENDPOINTS):
                url = f"redis://127.1.{number // 250}.{number % 250 + 1}:{silent.port}/0"
                hostile.create(manifest(f"slow-{number}", redis={"url": url}))
            eventually(lambda: check_minimum(silent.connections, 16))
            wait_until_reconciled(operator)
            during = [seconds_until_connected(api_namespace, server, f"during-{number}") for number in range(5)]
    assert sorted(during)[2] <= 2 * sorted(before)[2] + 0.5, (before, during)


def test_many_endpoints_of_one_namespace_leave_open_files_for_another_namespace(
    api_namespace: Namespace, tmp_path: Path, start_redis: StartRedis
) -> None:
    server = start_redis({"bind": "0.0.0.0", "protected-mode": "no"})
    with fresh_namespace(api_namespace.cluster) as name:
        hostile = Namespace(api_namespace.cluster, name)
        settings = {
            "watch_namespaces": f"{api_namespace.name},{name}",
            "stream_interval": "1s",
            "allowed_destinations": "127.0.0.0/8",
        }
        operator = OperatorProcess(api_namespace.cluster.kubeconfig, tmp_path, **settings)
        operator.command = ("prlimit", f"--nofile={OPEN_FILES}:{OPEN_FILES}", *OperatorProcess.command)
        try:
            operator.start().wait_until_started()
            for number in range(MANY_ENDPOINTS):
                url = f"redis://127.1.{number // 250}.{number % 250 + 1}:{server.port}/0"
                hostile.create(manifest(f"many-{number}", redis={"url": url}))
            api_namespace.create(manifest_for(server))
            wait_for_condition(api_namespace, "orders", "RedisReachable", "Connected")
            eventually(lambda: check_minimum(count_connected(hostile), MANY_ENDPOINTS), timeout=120)
            assert len([*Path(f"/proc/{operator.pid}/fd").iterdir()]) < OPEN_FILES / 2
            assert not [line for line in operator.lines() if "Too many open files" in str(line)]
        finally:
            operator.kill()


def check_minimum(actual: int, minimum: int) -> None:
    assert actual >= minimum, actual


def count_connected(namespace: Namespace) -> int:
    return sum(is_connected(each) for each in namespace.list_all("StreamConsumer"))


def is_connected(item: Manifest) -> bool:
    conditions = {each["type"]: each["reason"] for each in item.get("status", {}).get("conditions", [])}
    return conditions.get("RedisReachable") == "Connected"


def wait_until_reconciled(operator: OperatorProcess) -> None:
    """Wait until the work queue is empty, so that only the slow servers can cause a delay."""

    def check() -> None:
        line = next(
            each for each in operator.metrics().splitlines() if each.startswith("streamconsumer_operator_queue_depth ")
        )
        assert float(line.split()[-1]) == 0

    eventually(check, timeout=120)
