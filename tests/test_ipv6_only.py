"""Operator, pod and commands in a network without IPv4. Each test runs again in a network namespace of its own."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from streamconsumer.operator.settings import PREFIX
from tests.cluster.api_server import ApiServer, Flags
from tests.cluster.redis_servers import first_available
from tests.model.examples import manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess
from tests.processor.pod import Pod

ADDRESS = "fd00::10"
REDIS_PORT, SENTINEL_PORT, CLUSTER_PORT = 16379, 26379, 16400
REDIS_URL = f"redis://[{ADDRESS}]:{REDIS_PORT}/0"
INSIDE = "STREAMCONSUMER_TEST_IPV6_ONLY"
TIMEOUT_SECONDS = 60.0
SET_UP = f'ip link set lo up && ip addr flush dev lo && ip -6 addr add {ADDRESS}/128 dev lo nodad && exec "$@"'

inside = pytest.mark.skipif(INSIDE not in os.environ, reason="runs inside the network namespace")


@pytest.mark.cluster
@pytest.mark.timeout(500)
@pytest.mark.skipif(INSIDE in os.environ, reason="starts the network namespace")
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip")
def test_the_product_works_in_a_network_without_ipv4() -> None:
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    command = ["unshare", "--net", "sh", "-c", SET_UP, "sh", *pytest_command]
    ran = subprocess.run(command, env={**os.environ, INSIDE: "1"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "5 passed" in ran.stdout


class IPv6ApiServer(ApiServer):
    """An API server whose only address is ADDRESS."""

    address, etcd_host = ADDRESS, f"[{ADDRESS}]"

    @property
    def url(self) -> str:
        return f"https://[{ADDRESS}]:{self.port}"

    def _ports(self) -> tuple[int, int, int]:
        return 12379, 12380, 16443

    def _serving_flags(self) -> Flags:
        return {
            **super()._serving_flags(),
            "bind-address": ADDRESS,
            "service-cluster-ip-range": "fd00:96::/112",
        }


@pytest.fixture(scope="module")
def redis_server() -> Iterator[None]:
    with running_redis(REDIS_PORT):
        yield


@contextmanager
def running_redis(port: int, *arguments: str) -> Iterator[None]:
    """Run a server whose only address is ADDRESS. A configuration file must be the first argument."""
    options = ("--bind", ADDRESS, "--port", str(port), "--protected-mode", "no")
    server = subprocess.Popen([str(first_available()), *arguments, *options], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: check_redis(port), TIMEOUT_SECONDS)
        yield
    finally:
        server.kill()
        server.wait()


def check_redis(port: int) -> None:
    with Redis(host=ADDRESS, port=port) as client:
        try:
            client.ping()
        except RedisConnectionError as error:
            raise AssertionError(str(error)) from None


def check_cluster() -> None:
    """Check that the cluster accepts commands. A new cluster rejects commands for a short time."""
    with Redis(host=ADDRESS, port=CLUSTER_PORT) as client:
        assert b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")


def add_message(port: int) -> None:
    with Redis(host=ADDRESS, port=port) as client:
        client.xadd("orders", {"n": "1"})


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with IPv6ApiServer() as server:
        install_crd(server)
        yield server


def get(port: int, path: str) -> tuple[int, str]:
    """Send the request of a probe to the pod's address."""
    with urllib.request.urlopen(f"http://[{ADDRESS}]:{port}/{path}", timeout=10) as response:
        return response.status, response.read().decode()


@contextmanager
def running_pod(folder: Path, url: str, **settings: str) -> Iterator[Pod]:
    pod = Pod(folder, url, "pod_handlers:log_handled", **settings)
    del pod.environment["STREAMCONSUMER_HTTP_HOST"]
    pod.start(new_interpreter=True)
    try:
        yield pod
    finally:
        assert pod.process
        pod.process.kill()
        pod.process.wait()


def check_handled(pod: Pod, redis_port: int) -> None:
    """Add a message, and wait until the pod has handled the message."""
    port = eventually(lambda: next_value(pod.output, "http_port"), TIMEOUT_SECONDS)
    add_message(redis_port)
    eventually(lambda: check_contains(pod.output, '"handled'), TIMEOUT_SECONDS)
    assert get(port, "readyz") == (200, "ok\n")
    assert get(port, "livez") == (200, "ok\n")
    assert f"[{ADDRESS}]:{redis_port}" in pod.output.read_text()


@inside
@pytest.mark.usefixtures("redis_server")
def test_a_pod_handles_messages_and_answers_probes(tmp_path: Path) -> None:
    with running_pod(tmp_path, REDIS_URL) as pod:
        check_handled(pod, REDIS_PORT)


@inside
@pytest.mark.usefixtures("redis_server")
def test_a_pod_finds_its_server_through_a_sentinel(tmp_path: Path) -> None:
    """A sentinel sends an IPv6 address without brackets."""
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"sentinel monitor shop {ADDRESS} {REDIS_PORT} 1\n")
    nodes = f"[{ADDRESS}]:{SENTINEL_PORT}"
    with (
        running_redis(SENTINEL_PORT, str(configuration), "--sentinel"),
        running_pod(tmp_path, "redis:///0", redis_sentinel_master="shop", redis_sentinel_nodes=nodes) as pod,
    ):
        check_handled(pod, REDIS_PORT)


@inside
def test_a_pod_finds_its_node_of_a_cluster(tmp_path: Path) -> None:
    nodes = ("--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes.conf"))
    with running_redis(CLUSTER_PORT, *nodes):
        with Redis(host=ADDRESS, port=CLUSTER_PORT) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            client.execute_command("CONFIG", "SET", "cluster-announce-ip", ADDRESS)
        eventually(check_cluster, TIMEOUT_SECONDS)
        with running_pod(tmp_path, f"redis://[{ADDRESS}]:{CLUSTER_PORT}/0", redis_cluster="true") as pod:
            check_handled(pod, CLUSTER_PORT)


def next_value(log: Path, field: str) -> int:
    for line in log.read_text().splitlines():
        if f'"{field}"' in line:
            return int(json.loads(line)[field])
    raise AssertionError(log.read_text())


def check_contains(log: Path, text: str) -> None:
    assert text in log.read_text(), log.read_text()


@contextmanager
def running(api: ApiServer, folder: Path) -> Iterator[OperatorProcess]:
    operator = OperatorProcess(api.kubeconfig, folder, lease="default/operator", stream_interval="1s")
    del operator.environment[f"{PREFIX}HTTP_HOST"], operator.environment[f"{PREFIX}ALLOWED_DESTINATIONS"]
    try:
        yield operator.start().wait_until_started(TIMEOUT_SECONDS)
    finally:
        operator.kill()


@inside
@pytest.mark.cluster
@pytest.mark.usefixtures("redis_server")
def test_the_operator_reconciles_and_reaches_redis(api: ApiServer, tmp_path: Path) -> None:
    namespace = Namespace(api, "default")
    with running(api, tmp_path) as operator:
        namespace.create(manifest(redis={"url": REDIS_URL}))
        eventually(lambda: check_reachable(namespace), TIMEOUT_SECONDS)
        namespace.edit("orders", batchCount=20)
        eventually(lambda: check_edited(namespace), TIMEOUT_SECONDS)
        port = next_value(operator.log, "http_port")
        assert get(port, "readyz") == (200, "ok\n")
        assert "streamconsumer_ready" in get(port, "metrics")[1]


def check_reachable(namespace: Namespace) -> None:
    conditions = namespace.conditions("orders")
    assert conditions["RedisReachable"]["status"] == "True", conditions


def check_edited(namespace: Namespace) -> None:
    (container,) = namespace.get("Deployment", "orders-consumer")["spec"]["template"]["spec"]["containers"]
    assert {"name": "STREAMCONSUMER_BATCH_COUNT", "value": "20"} in container["env"]


@inside
@pytest.mark.cluster
def test_commands_read_from_the_cluster(api: ApiServer) -> None:
    environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig)}
    command = [sys.executable, "-m", "streamconsumer", "status", "-n", "default"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "orders" in ran.stdout, ran.stdout + ran.stderr
