"""The test bench: its servers are real, start quickly and leave nothing behind; its programs are found or built."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.cluster import cgroups, images
from tests.cluster.api_server import ApiServer
from tests.cluster.collector import Collector
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import BenchError, MissingTool, ProgramFailed
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.node import Node
from tests.cluster.own_cluster import OwnCluster, named_cluster
from tests.cluster.processes import Program
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.cluster.runs import remove_dead_runs, runs_directory, started_at, wait_until
from tests.cluster.spans import parse_spans

REPOSITORY = Path(__file__).parents[2]


def test_redis_starts_with_the_expected_version(any_redis: RedisServer) -> None:
    with redis.Redis.from_url(any_redis.url) as client:
        info = client.info("server")
    assert any_redis.version in (info.get("valkey_version"), info["redis_version"])


def test_redis_keeps_its_address_after_a_restart(any_redis: RedisServer) -> None:
    url = any_redis.url
    any_redis.restart()
    with redis.Redis.from_url(url) as client:
        assert client.ping()


def test_killed_redis_keeps_its_append_only_file(any_redis: RedisServer, start_redis: StartRedis) -> None:
    server = start_redis({"appendonly": "yes", "appendfsync": "always"}, any_redis.flavour)
    with redis.Redis.from_url(server.url) as client:
        client.xadd("orders", {"id": "1"})
        server.kill()
        assert not server.is_running
        server.start()
        assert client.xlen("orders") == 1


def test_paused_redis_responds_after_it_is_resumed(
    redis_server: RedisServer,
) -> None:
    with redis.Redis.from_url(redis_server.url, socket_timeout=0.2, retry=None) as client:
        client.ping()
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        redis_server.resume()
        assert client.ping()


def test_redis_with_a_password_rejects_clients_without_it(start_redis: StartRedis) -> None:
    server = start_redis({"requirepass": "open-sesame"})
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with (
        redis.Redis.from_url(f"redis://{server.host}:{server.port}", retry=None) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_redis_of_a_killed_test_process_ends_at_the_next_start(
    start_redis: StartRedis,
) -> None:
    script = (
        "import os, signal; from tests.cluster.redis_servers import RedisServer\n"
        "server = RedisServer().start(); print(server.pid, server.directory, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    orphan, directory = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY
    ).stdout.split()
    start_redis()
    assert not started_at(int(orphan))
    assert not Path(directory).exists()


def test_span_reaches_the_collector_complete(collector: Collector) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "bench"}))
    exporter = OTLPSpanExporter(f"{collector.http_endpoint}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests", schema_url="https://opentelemetry.io/schemas/1.44.0")
    with tracer.start_as_current_span("send orders", kind=trace.SpanKind.PRODUCER) as sent:
        link = trace.Link(sent.get_span_context(), {"count": 3})
    process = tracer.start_span(
        "process orders",
        kind=trace.SpanKind.CONSUMER,
        links=[link],
        attributes={"n": 1, "ratio": 0.5, "ok": True, "names": ["a", "b"]},
    )
    process.set_status(trace.Status(trace.StatusCode.ERROR, "it broke"))
    process.end()

    producer, consumer = collector.wait_for_spans(2)

    assert (producer.name, producer.kind, producer.status_code) == (
        "send orders",
        "PRODUCER",
        "UNSET",
    )
    assert consumer.kind == "CONSUMER"
    assert consumer.attributes == {"n": 1, "ratio": 0.5, "ok": True, "names": ["a", "b"]}
    assert (consumer.status_code, consumer.status_message) == ("ERROR", "it broke")
    assert consumer.links[0].trace_id == producer.trace_id
    assert consumer.links[0].span_id == producer.span_id
    assert consumer.links[0].attributes == {"count": 3}
    assert consumer.resource["service.name"] == "bench"
    assert consumer.scope_name == "tests"
    assert consumer.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert consumer.end_ns >= consumer.start_ns


def test_collector_has_no_spans_of_earlier_tests(collector: Collector) -> None:
    assert collector.spans() == []


def test_incomplete_line_is_not_parsed() -> None:
    assert parse_spans('{"resourceSpans": []}\n{"resourceSp') == []


def test_servers_on_loopback_are_reached_without_the_proxy_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert urllib.request.proxy_bypass("127.0.0.1:4318")
    assert urllib.request.proxy_bypass("localhost")
    assert not urllib.request.proxy_bypass("collector.example")


def test_redis_starts_in_a_cache_whose_path_contains_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    with RedisServer({"pidfile": tmp_path / "my cache" / "redis.pid"}) as server:
        assert server.directory.is_relative_to(tmp_path / "my cache")


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    with pytest.raises(BenchError, match=r"^/dev/null/cache/streamconsumer/run: .*; set XDG_CACHE_HOME to a folder"):
        RedisServer().start()


def test_state_of_runs_is_in_the_projects_cache() -> None:
    assert runs_directory().parent.name == "streamconsumer"


CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "1"}}


def test_api_server_deletes_objects_with_their_namespace(
    api_server: ApiServer,
) -> None:
    with fresh_namespace(api_server) as name:
        metadata = {"name": "finalized", "namespace": name, "finalizers": ["example.com/never"]}
        api_server.apply({**CONFIG_MAP, "metadata": metadata})
        assert api_server.get("configmap", "finalized", "--namespace", name)["data"] == {"a": "1"}
    assert name not in api_server.kubectl("get", "namespaces")
    assert name not in api_server.kubectl("get", "configmaps", "--all-namespaces")


def test_error_contains_the_message_of_kubectl(api_server: ApiServer, namespace: str) -> None:
    with pytest.raises(BenchError, match=r'configmaps "absent" not found'):
        api_server.get("configmap", "absent", "--namespace", namespace)


def test_api_server_certificates_pass_strict_verification(api_server: ApiServer) -> None:
    strict = ssl.create_default_context(cafile=api_server.ca)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection((api_server.address, api_server.port)) as connection,
        strict.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        assert secured.version() == "TLSv1.3"


def test_two_api_servers_are_independent(api_server: ApiServer, namespace: str) -> None:
    with ApiServer() as other:
        assert other.url != api_server.url
        assert namespace not in other.kubectl("get", "namespaces")


@pytest.mark.cluster
def test_api_server_starts_within_seconds_and_starts_again_after_a_stop() -> None:
    server = ApiServer()
    for _ in range(2):
        start_seconds = time.monotonic()
        server.start()
        assert time.monotonic() - start_seconds < 30
        assert "default" in server.kubectl("get", "namespaces")
        directory = server.directory
        server.stop()
        assert not directory.exists()


def test_error_of_a_failed_program_contains_the_end_of_its_log(api_server: ApiServer, tmp_path: Path) -> None:
    program = Program("etcd", [*api_server.programs["etcd"].command, "--no-such-flag"], tmp_path)
    program.start()
    with pytest.raises(ProgramFailed, match="no-such-flag"):
        program.wait_until(lambda: False, timeout=20)


def test_deployment_on_the_control_plane_creates_pending_pods(
    control_plane: ControlPlane, control_plane_namespace: str
) -> None:
    in_namespace = ("--namespace", control_plane_namespace)
    control_plane.kubectl("create", "deployment", "web", "--image=web", "--replicas=2", *in_namespace)
    control_plane.kubectl("wait", "--for=create", "pod", "--selector=app=web", "--timeout=20s", *in_namespace)
    assert wait_until(lambda: len(control_plane.get("pods", *in_namespace)["items"]) == 2, timeout=20)
    pods = control_plane.get("pods", *in_namespace)["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Pending", "Pending"]


def redis_deployment() -> list[dict[str, Any]]:
    """Return a Redis Deployment and Service with the settings that a restricted namespace requires."""
    labels = {"app": "redis"}
    container = {
        "name": "redis",
        "image": images.REDIS,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 6379}],
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 2,
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "redis", "labels": labels},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "redis"},
            "spec": {"selector": labels, "ports": [{"port": 6379}]},
        },
    ]


@pytest.mark.e2e
def test_pod_on_the_node_is_reachable_by_service_name_and_restarts_after_kill_9(
    node: Node | OwnCluster, node_namespace: str
) -> None:
    in_namespace = ("--namespace", node_namespace)
    node.load_image(images.redis())
    node.apply(
        *({**each, "metadata": {**each["metadata"], "namespace": node_namespace}} for each in redis_deployment())
    )
    node.kubectl("rollout", "status", "deployment/redis", "--timeout=60s", *in_namespace)
    pod = node.get("pods", *in_namespace)["items"][0]["metadata"]["name"]

    command = ("redis-cli", "-h", "redis", "PING")
    assert wait_until(lambda: run_in_pod(node, pod, in_namespace, command) == "PONG", timeout=10, pause=0.2)
    assert "Ready to accept connections" in node.kubectl("logs", pod, *in_namespace)

    node.kill_container(node_namespace, pod, "redis")
    assert wait_until(lambda: restarts(node, node_namespace, pod) == 1, timeout=30, pause=0.2)


def run_in_pod(node: Node | OwnCluster, pod: str, in_namespace: Sequence[str], command: Sequence[str]) -> str:
    """Return the output of a command in a pod, or the error: a Service needs a moment to find its pods."""
    try:
        return node.kubectl("exec", pod, *in_namespace, "--", *command).strip()
    except BenchError as error:
        return str(error)


@pytest.mark.e2e
def test_api_server_on_the_node_can_be_frozen_killed_and_restarted(
    node: Node | OwnCluster,
) -> None:
    if isinstance(node, OwnCluster):
        pytest.skip("the tests cannot control processes of your own cluster")
    server = node.programs["kube-apiserver"]
    server.pause()
    with pytest.raises(TimeoutError):
        node.request("GET", "/readyz", timeout=0.5)
    server.resume()
    assert node.request("GET", "/readyz") == "ok"
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        node.request("GET", "/readyz")
    server.start()
    assert wait_until(lambda: "node1" in listed_nodes(node), timeout=30, pause=0.2)


def listed_nodes(node: Node | OwnCluster) -> str:
    try:
        return node.kubectl("get", "nodes")
    except BenchError as error:
        return str(error)


def restarts(node: Node | OwnCluster, namespace: str, pod: str) -> int:
    status = node.get("pod", pod, "--namespace", namespace)["status"]
    return int(status["containerStatuses"][0]["restartCount"])


@pytest.mark.e2e
def test_spans_are_read_back_from_the_collector_in_a_pod(node: Node | OwnCluster, node_namespace: str) -> None:
    there = ("--namespace", node_namespace)
    node.load_image(images.collector())
    node.kubectl("run", "collector", f"--image={images.COLLECTOR}", "--image-pull-policy=IfNotPresent", *there)
    node.kubectl("wait", "--for=condition=Ready", "pod/collector", "--timeout=60s", *there)
    request = {"resourceSpans": [{"scopeSpans": [{"spans": [A_SPAN]}]}]}
    # Debian's base has no HTTP client, and bash speaks well enough for one request.
    send = (
        "exec 3<>/dev/tcp/127.0.0.1/4318; printf 'POST /v1/traces HTTP/1.0\\r\\n"
        'Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n%s\' ${#1} "$1" >&3; cat <&3'
    )
    node.kubectl("exec", "collector", *there, "--", "bash", "-c", send, "send", json.dumps(request))

    def read() -> list[str]:
        text = node.kubectl("exec", "collector", *there, "--", "cat", "/data/spans.json")
        return [span.name for span in parse_spans(text)]

    assert wait_until(lambda: read() == ["process orders"], timeout=10, pause=0.2)


A_SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "name": "process orders",
    "kind": 5,
    "startTimeUnixNano": "1544712660000000000",
    "endTimeUnixNano": "1544712661000000000",
}


@pytest.mark.e2e
def test_second_node_runs_next_to_the_first_and_leaves_nothing(node: Node | OwnCluster) -> None:
    with Node() as other:
        assert "Ready" in other.kubectl("get", "nodes")
        assert "Ready" in node.kubectl("get", "nodes")
        name, directory = other.directory.name, other.directory
    assert not directory.exists()
    assert not [group for root in cgroups.hierarchies() for group in root.glob(name)]


@pytest.mark.e2e
def test_node_of_a_killed_test_process_is_removed_at_the_next_start() -> None:
    script = (
        "import os, signal; from tests.cluster.node import Node\n"
        "node = Node().start(); print(node.first_pid, node.directory, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    first, directory = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY
    ).stdout.split()
    assert started_at(int(first))
    remove_dead_runs()
    assert not started_at(int(first))
    assert not Path(directory).exists()
    assert not [group for root in cgroups.hierarchies() for group in root.glob(Path(directory).name)]


def test_own_cluster_requires_confirmation_that_the_images_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    own = named_cluster()
    assert isinstance(own, OwnCluster)
    monkeypatch.delenv("STREAMCONSUMER_TEST_IMAGES", raising=False)
    with pytest.raises(MissingTool, match="STREAMCONSUMER_TEST_IMAGES=loaded"):
        own.load_image("shop:1")
    monkeypatch.setenv("STREAMCONSUMER_TEST_IMAGES", "loaded")
    own.load_image("shop:1")


@pytest.mark.parametrize(
    ("tag", "reference"),
    [
        ("shop:1", "docker.io/library/shop:1"),
        ("team/shop:1", "docker.io/team/shop:1"),
        ("localhost/shop:1", "localhost/shop:1"),
        ("ghcr.io/team/shop:1", "ghcr.io/team/shop:1"),
    ],
)
def test_short_image_name_is_expanded_as_kubernetes_does(tag: str, reference: str) -> None:
    assert images.full_reference(tag) == reference
