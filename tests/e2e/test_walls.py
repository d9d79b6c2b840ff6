"""The chart's NetworkPolicies with something on the node that enforces them: all that they let through still works,
and what they forbid is refused."""

from collections.abc import Iterator

import pytest

from tests.cluster.enforcer import enforce_network_policies
from tests.cluster.node import Node
from tests.e2e.shop import CHART, SYSTEM, TOOLS_IMAGE, Shop, eventually
from tests.e2e.test_upgrades import balance, consumer, publish

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
"""6443: a policy sees the API server's own port, not that of the Service `kubernetes`."""

TRY = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


@pytest.fixture(scope="module")
def walled(shop: Shop, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    if not isinstance(node, Node):
        pytest.skip("a cluster of your own has an enforcer, or not, of its own")
    values = tmp_path_factory.mktemp("chart") / "values.yaml"
    values.write_text(VALUES)
    install = ("upgrade", "--install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace")
    with enforce_network_policies(node):
        shop.cluster.helm(*install, "--values", str(values), "--wait", "--timeout", "90s")
        yield shop
        shop.kubectl("delete", "stc", "--all")
        shop.cluster.helm("uninstall", "streamconsumer", "--namespace", SYSTEM, "--wait")


def reaches(shop: Shop, pod: str, host: str, port: int) -> bool:
    """Whether something in the pod may connect; what is forbidden gets no answer at all."""
    outcome = f"{TRY}\n".replace("'", '"')
    script = ("sh", "-c", f"python3 -c '{outcome}' {host} {port} >/dev/null 2>&1 && echo yes || echo no")
    return shop.kubectl("exec", pod, "--", *script).strip() == "yes"


def stranger(shop: Shop, name: str, *labels: str) -> None:
    """A pod that is nobody's."""
    run = ("run", name, f"--image={TOOLS_IMAGE}", "--restart=Never", "--image-pull-policy=IfNotPresent", *labels)
    shop.kubectl(*run, "--command", "--", "python3", "-c", "import time; time.sleep(600)")
    shop.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")


def test_operator_pods_redis_and_collector_do_their_work_behind_the_policies(walled: Shop) -> None:
    walled.apply(consumer("walled", image=TOOLS_IMAGE))
    walled.wait_ready("walled")
    publish(walled, "publish-walled", 200, "walled")
    eventually("all published", lambda: walled.published("publish-walled"))
    balance(walled, "walled", 200)
    reachable = lambda: walled.condition("walled", "RedisReachable").get("status") == "True"  # noqa: E731
    eventually("the operator looks into Redis", reachable)
    eventually("spans of the pods arrive", lambda: len(walled.spans("process walled")) >= 200, 20)
    eventually("spans of the operator arrive", lambda: walled.spans("reconcile StreamConsumer"), 20)


def test_a_pod_reaches_nothing_that_its_policy_does_not_name(walled: Shop) -> None:
    pod = walled.ready_pods("walled")[0]
    assert reaches(walled, pod, "redis", 6379)
    assert reaches(walled, pod, "collector", 4318)
    assert not reaches(walled, pod, "kubernetes.default", 443)


def test_only_who_is_named_connects_to_a_pod_and_to_no_other_port(walled: Shop) -> None:
    stranger(walled, "stranger")
    stranger(walled, "scraper", "--labels=may=scrape")
    address = walled.pods("walled")[0]["status"]["podIP"]
    assert reaches(walled, "scraper", address, 8080)
    assert not reaches(walled, "stranger", address, 8080)
    operators = walled.cluster.get("pods", "--namespace", SYSTEM)["items"]
    assert not reaches(walled, "scraper", operators[0]["status"]["podIP"], 8080)
    walled.kubectl("delete", "pod", "stranger", "scraper", "--wait=false")
