"""Faults of the API server, and a kill of the operator at each of its writes: the operator converges every time."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconsumer.operator.kube.list_pages import PAGE_SIZE
from streamconsumer.operator.manifests import CHILD_KINDS
from tests.model.examples import Manifest, manifest
from tests.operator.faulty_api_proxy import FaultyApiProxy, Request
from tests.operator.namespace import CHILDREN, LABELLED, TIMEOUT_SECONDS, Namespace, eventually
from tests.operator.operator_process import OperatorProcess, running_operator


@pytest.fixture
def proxy(api_namespace: Namespace) -> Iterator[FaultyApiProxy]:
    with FaultyApiProxy(api_namespace.cluster) as proxy:
        yield proxy


FAULTS = ("409", "410", "429", "500", "503", "drop", "lose", "hang")
"""The faults of `FaultRule`, of which every first write gets one."""


class FirstWritesFail:
    """A fault rule for the first two writes to each path of a StreamConsumer, whose name ends with the fault.

    Only one write hangs, because the operator waits 30 s for the response."""

    def __init__(self) -> None:
        self.injected = Counter[str]()

    def __call__(self, request: Request) -> str | None:
        path = request.path.partition("?")[0]
        fault = next((each for each in FAULTS if f"orders-{each}" in path), None)
        if fault is None or not request.is_write or self.injected[path] >= 2:
            return None
        if fault == "hang" and any("orders-hang" in each for each in self.injected):
            return None
        self.injected[path] += 1
        return fault


def wait_until_converged(namespace: Namespace, name: str, within: float = TIMEOUT_SECONDS) -> None:
    """Wait until the status and the children have the current generation, and each child exists once."""

    def done() -> None:
        resource = namespace.get("StreamConsumer", name)
        assert resource.get("status", {}).get("observedGeneration") == resource["metadata"]["generation"]
        assert namespace.reason(name) == "PodsStarting"
        children = [each for kind in CHILDREN for each in namespace.list_all(kind, f"{LABELLED}={name}")]
        assert sorted(each["metadata"]["name"] for each in children) == [f"{name}-consumer"] * 2
        (deployment,) = namespace.list_all("Deployment", f"{LABELLED}={name}")
        variables = {each["name"]: each.get("value") for each in containers(deployment)[0]["env"]}
        assert variables.get("STREAMCONSUMER_BATCH_COUNT") == str(resource["spec"]["batchCount"])

    eventually(done, within)


def containers(deployment: Manifest) -> list[Manifest]:
    items: list[Manifest] = deployment["spec"]["template"]["spec"]["containers"]
    return items


@pytest.mark.timeout(120)
def test_the_operator_starts_although_every_list_expires_after_its_first_page(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    """A list that takes longer than etcd's compaction interval loses its version."""
    names = [f"orders-{number}" for number in range(PAGE_SIZE + 2)]
    for name in names:
        api_namespace.create(manifest(name, batchCount=20))
    expired: list[str] = []

    def expire(request: Request) -> str | None:
        if "continue=" not in request.path:
            return None
        expired.append(request.path)
        return "410"

    proxy.fault_for = expire
    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        for name in names:
            wait_until_converged(api_namespace, name, within=60)
        api_namespace.edit(names[-1], batchCount=30)
        wait_until_converged(api_namespace, names[-1])
        assert operator.exit_code is None
    assert len(expired) >= 2  # the list of the cache, and the list before the watch


@pytest.mark.timeout(120)
def test_the_operator_converges_when_the_first_writes_fail(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    proxy.fault_for = rule = FirstWritesFail()
    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        for fault in FAULTS:
            api_namespace.create(manifest(f"orders-{fault}", batchCount=20))
        for fault in FAULTS:
            wait_until_converged(api_namespace, f"orders-{fault}", within=60)
        assert operator.exit_code is None
    for fault in FAULTS:
        paths = {path for path in rule.injected if f"orders-{fault}" in path}
        assert len(paths) >= (1 if fault == "hang" else 3), f"{fault} was injected into {paths} only"


def test_retry_after_pauses_all_requests(api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path) -> None:
    """The API server throttles the whole operator, not one resource."""
    injected_faults: list[Request] = []

    def throttle_one_write(request: Request) -> str | None:
        if injected_faults or not request.is_write:
            return None
        injected_faults.append(request)
        return "429"

    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        proxy.fault_for = throttle_one_write
        api_namespace.create(manifest("orders", batchCount=20))
        eventually(lambda: check_throttled(operator))
        api_namespace.create(manifest("returns", batchCount=20))
        wait_until_converged(api_namespace, "orders")
        wait_until_converged(api_namespace, "returns")
    writes = [request for request in proxy.requests if request.is_write]
    assert writes[0] is injected_faults[0]
    assert writes[1].at - writes[0].at >= 1


def check_throttled(operator: OperatorProcess) -> None:
    assert operator.logged("API server is throttling requests; pausing all reconciles")


@pytest.mark.parametrize("fault", ["410", "429", "500", "drop", "page"])
def test_the_operator_converges_when_restarted_watches_fail(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path, fault: str
) -> None:
    injected_faults = Counter[str]()

    def fail_two_watches(request: Request) -> str | None:
        kind = request.path.partition("?")[0]
        if not request.is_watch or injected_faults[kind] >= 2:
            return None
        injected_faults[kind] += 1
        return fault

    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        api_namespace.create(manifest("before", batchCount=20))
        wait_until_converged(api_namespace, "before")
        proxy.fault_for = fail_two_watches
        proxy.cut_watches()
        api_namespace.edit("before", batchCount=30)
        api_namespace.create(manifest("after", batchCount=20))
        wait_until_converged(api_namespace, "before")
        wait_until_converged(api_namespace, "after")
        assert injected_faults
        assert operator.exit_code is None


def test_a_rejected_child_is_reported_and_applied_later(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name):
        proxy.fault_for = lambda request: "422" if request.is_write and "/deployments/" in request.path else None
        api_namespace.create(manifest(batchCount=20))
        eventually(lambda: check_rejected(api_namespace))
        proxy.fault_for = lambda _: None
        api_namespace.edit("orders", batchCount=30)  # without the edit, the operator retries after a minute
        wait_until_converged(api_namespace, "orders")


def check_rejected(namespace: Namespace) -> None:
    assert namespace.reason("orders") == "ChildRejected"


def test_a_hanging_request_does_not_block_other_resources(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name):
        proxy.fault_for = lambda request: "hang" if "hung-consumer" in request.path else None
        api_namespace.create(manifest("hung", batchCount=20))
        time.sleep(0.3)
        api_namespace.create(manifest("orders", batchCount=20))
        eventually(lambda: api_namespace.get("Deployment", "orders-consumer"))


def test_the_operator_converges_when_killed_at_each_of_its_writes(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    """The kill happens after the server has received the write and before the response. A kill before the write or
    during a read leaves no new state."""
    variables, kubeconfig = {"watch_namespaces": api_namespace.name}, proxy.kubeconfig(tmp_path)
    api_namespace.create(manifest(batchCount=20))
    kills = 0
    while killed_at_its_first_write(proxy, kubeconfig, tmp_path, **variables):
        kills += 1
        assert kills < 10, "every operator writes something"
    assert kills >= 3
    proxy.fault_for = lambda _: None
    with running_operator(kubeconfig, tmp_path, **variables):
        wait_until_converged(api_namespace, "orders")


def killed_at_its_first_write(proxy: FaultyApiProxy, kubeconfig: Path, folder: Path, **variables: str) -> bool:
    """Start an operator and kill it at its first write. Returns False if the operator wrote nothing."""
    reached = threading.Event()

    def rule(request: Request) -> str | None:
        if request.is_write:
            reached.set()
            return "lose"
        return None

    proxy.fault_for = rule
    operator = OperatorProcess(kubeconfig, folder, **variables).start()

    def wrote_or_started() -> None:
        assert reached.is_set() or operator.logged("operator started")

    try:
        eventually(wrote_or_started, pause=0.01)
        return reached.wait(4)
    finally:
        operator.kill()


@pytest.mark.timeout(120)
def test_watches_continue_after_the_credentials_were_rejected_for_a_while(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    """A restored etcd may lack the pod to which the token of the operator is bound."""
    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        api_namespace.create(manifest("orders", batchCount=20))
        wait_until_converged(api_namespace, "orders")
        proxy.fault_for = lambda _: "401"
        proxy.cut_watches()
        began = len(proxy.requests)
        time.sleep(12)
        rejected = len(proxy.requests) - began
        proxy.fault_for = lambda _: None
        began = len(proxy.requests)
        eventually(lambda: check_watches(proxy.requests[began:]), TIMEOUT_SECONDS * 2)
        api_namespace.edit("orders", batchCount=30)
        wait_until_converged(api_namespace, "orders")
        assert operator.exit_code is None
        assert 0 < rejected < 100


def check_watches(requests: list[Request]) -> None:
    """Check that the operator has started a watch of every kind."""
    assert len({request.path.partition("?")[0] for request in requests if request.is_watch}) == len(CHILD_KINDS) + 2
