"""The chart's NetworkPolicies on a node that enforces them.

Allowed connections work, and forbidden connections are blocked.
"""

from collections.abc import Iterator

import pytest

from tests.cluster.network_policy_enforcer import enforce_network_policies
from tests.cluster.node import Node
from tests.e2e.shop import CHART, SYSTEM, TOOLS_IMAGE, Shop, eventually
from tests.e2e.test_upgrades import check_ledger, consumer, publish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ENDPOINT = "http://collector.shop:4318"
VALUES = """
telemetry: {endpoint: "http://collector.shop:4318"}
watchNamespaces: [shop]
networkPolicy:
  enabled: true
  from: [{podSelector: {}}]
  egress:
  - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  - ports: [{port: 6443}, {port: 6379}]
processor:
  networkPolicy: {enabled: true, from: [{podSelector: {matchLabels: {may: scrape}}}]}
"""
"""A policy sees the API server's own port 6443, not the port of the Service `kubernetes`."""

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


@pytest.fixture(scope="module")
def restricted(shop: Shop, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    if not isinstance(node, Node):
        pytest.skip("your own cluster may or may not enforce NetworkPolicies")
    values = tmp_path_factory.mktemp("chart") / "values.yaml"
    values.write_text(VALUES)
    install = ("upgrade", "--install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace")
    with enforce_network_policies(node):
        shop.cluster.helm(*install, "--values", str(values), "--wait", "--timeout", "90s")
        yield shop
        shop.kubectl("delete", "stc", "--all")
        shop.cluster.helm("uninstall", "streamconsumer", "--namespace", SYSTEM, "--wait")


def can_connect(shop: Shop, pod: str, host: str, port: int) -> bool:
    """Return whether a connection from the pod succeeds. A forbidden connection gets no reply."""
    source = f"{CONNECT}\n".replace("'", '"')
    script = ("sh", "-c", f"python3 -c '{source}' {host} {port} >/dev/null 2>&1 && echo yes || echo no")
    return shop.kubectl("exec", pod, "--", *script).strip() == "yes"


def run_pod(shop: Shop, name: str, *labels: str) -> None:
    """Run a pod that belongs to no StreamConsumer."""
    run = ("run", name, f"--image={TOOLS_IMAGE}", "--restart=Never", "--image-pull-policy=IfNotPresent", *labels)
    shop.kubectl(*run, "--command", "--", "python3", "-c", "import time; time.sleep(600)")
    shop.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")


def test_operator_and_pods_work_with_the_policies(restricted: Shop) -> None:
    restricted.apply(consumer("restricted", image=TOOLS_IMAGE))
    restricted.wait_ready("restricted")
    publish(restricted, "publish-restricted", 200, "restricted")
    eventually("all published", lambda: restricted.published("publish-restricted"))
    check_ledger(restricted, "restricted", 200)
    reachable = lambda: restricted.condition("restricted", "RedisReachable").get("status") == "True"  # noqa: E731
    eventually("the operator reaches Redis", reachable)
    eventually("spans of the pods arrive", lambda: len(restricted.spans("process restricted")) >= 200, 20)
    eventually("spans of the operator arrive", lambda: restricted.spans("reconcile StreamConsumer"), 20)


def test_pod_reaches_only_destinations_in_its_policy(restricted: Shop) -> None:
    pod = restricted.ready_pods("restricted")[0]
    assert can_connect(restricted, pod, "redis", 6379)
    assert can_connect(restricted, pod, "collector", 4318)
    assert not can_connect(restricted, pod, "kubernetes.default", 443)


def test_only_allowed_pods_connect_and_only_to_the_allowed_port(restricted: Shop) -> None:
    run_pod(restricted, "stranger")
    run_pod(restricted, "scraper", "--labels=may=scrape")
    address = restricted.pods("restricted")[0]["status"]["podIP"]
    assert can_connect(restricted, "scraper", address, 8080)
    assert not can_connect(restricted, "stranger", address, 8080)
    operators = restricted.cluster.get("pods", "--namespace", SYSTEM)["items"]
    assert not can_connect(restricted, "scraper", operators[0]["status"]["podIP"], 8080)
    restricted.kubectl("delete", "pod", "stranger", "scraper", "--wait=false")
