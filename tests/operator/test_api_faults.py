"""The API server as it is on bad days, and the operator killed at each of its requests: it converges every time."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.examples import Manifest, manifest
from tests.operator.faulty_api_proxy import FaultyApiProxy, Request
from tests.operator.namespace import CHILDREN, LABELLED, TIMEOUT_SECONDS, Namespace, eventually
from tests.operator.operator_process import OperatorProcess, running_operator


@pytest.fixture
def proxy(api_namespace: Namespace) -> Iterator[FaultyApiProxy]:
    with FaultyApiProxy(api_namespace.cluster) as proxy:
        yield proxy


FAULTS = ("409", "410", "429", "500", "503", "drop", "lose", "hang")
"""Refused, gone, too many, broken, away; dropped before the server has seen it, and after; no answer at all."""


class Spoiling:
    """Spoils the first write to each path of a StreamConsumer, by the fault that its name ends with, twice. One that
    hangs is spoiled once: half a minute is waited for an answer."""

    def __init__(self) -> None:
        self.spoiled = Counter[str]()

    def __call__(self, request: Request) -> str | None:
        path = request.path.partition("?")[0]
        fault = next((each for each in FAULTS if f"orders-{each}" in path), None)
        if fault is None or not request.is_write or self.spoiled[path] >= 2:
            return None
        if fault == "hang" and any("orders-hang" in each for each in self.spoiled):
            return None
        self.spoiled[path] += 1
        return fault


def converged(namespace: Namespace, name: str, within: float = TIMEOUT_SECONDS) -> None:
    """The status speaks of the newest generation, and so do the children, each of which is there once."""

    def done() -> None:
        found = namespace.get("StreamConsumer", name)
        assert found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
        assert namespace.reason(name) == "PodsStarting"
        children = [each for kind in CHILDREN for each in namespace.list_all(kind, f"{LABELLED}={name}")]
        assert sorted(each["metadata"]["name"] for each in children) == [f"{name}-consumer"] * 2
        (deployment,) = namespace.list_all("Deployment", f"{LABELLED}={name}")
        told = {each["name"]: each.get("value") for each in containers(deployment)[0]["env"]}
        assert told.get("STREAMCONSUMER_BATCH_COUNT") == str(found["spec"]["batchCount"])

    eventually(done, within)


def containers(deployment: Manifest) -> list[Manifest]:
    found: list[Manifest] = deployment["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.timeout(120)
def test_the_operator_converges_when_the_first_writes_fail(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    proxy.fault_for = spoil = Spoiling()
    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        for fault in FAULTS:
            api_namespace.create(manifest(f"orders-{fault}", batchCount=20))
        for fault in FAULTS:
            converged(api_namespace, f"orders-{fault}", within=60)
        assert operator.exit_code is None
    for fault in FAULTS:
        paths = {path for path in spoil.spoiled if f"orders-{fault}" in path}
        assert len(paths) >= (1 if fault == "hang" else 3), f"{fault} was not in the way: {paths}"


def test_retry_after_pauses_all_requests(api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path) -> None:
    """By all: it is the server that is busy, and not the one resource."""
    refused: list[Request] = []

    def once(request: Request) -> str | None:
        if refused or not request.is_write:
            return None
        refused.append(request)
        return "429"

    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        proxy.fault_for = once
        api_namespace.create(manifest("orders", batchCount=20))
        eventually(lambda: check_busy(operator))
        api_namespace.create(manifest("returns", batchCount=20))
        converged(api_namespace, "orders")
        converged(api_namespace, "returns")
    writes = [request for request in proxy.requests if request.is_write]
    assert writes[0] is refused[0]
    assert writes[1].at - writes[0].at >= 1


def check_busy(operator: OperatorProcess) -> None:
    assert operator.logged("API server is throttling requests; pausing")


@pytest.mark.parametrize("fault", ["410", "429", "500", "drop", "page"])
def test_the_operator_converges_when_restarted_watches_fail(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path, fault: str
) -> None:
    refused = Counter[str]()

    def twice(request: Request) -> str | None:
        kind = request.path.partition("?")[0]
        if not request.is_watch or refused[kind] >= 2:
            return None
        refused[kind] += 1
        return fault

    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name) as operator:
        api_namespace.create(manifest("before", batchCount=20))
        converged(api_namespace, "before")
        proxy.fault_for = twice
        proxy.cut_watches()
        api_namespace.edit("before", batchCount=30)
        api_namespace.create(manifest("after", batchCount=20))
        converged(api_namespace, "before")
        converged(api_namespace, "after")
        assert refused
        assert operator.exit_code is None


def test_a_rejected_child_is_reported_and_applied_later(
    api_namespace: Namespace, proxy: FaultyApiProxy, tmp_path: Path
) -> None:
    with running_operator(proxy.kubeconfig(tmp_path), tmp_path, watch_namespaces=api_namespace.name):
        proxy.fault_for = lambda request: "422" if request.is_write and "/deployments/" in request.path else None
        api_namespace.create(manifest(batchCount=20))
        eventually(lambda: check_refused(api_namespace))
        proxy.fault_for = lambda _: None
        api_namespace.edit("orders", batchCount=30)  # or after a minute by itself
        converged(api_namespace, "orders")


def check_refused(namespace: Namespace) -> None:
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
    """After the server has seen the write and before its answer. Killed before that, or while it reads, an operator
    has left nothing that the one before it had not."""
    told, kubeconfig = {"watch_namespaces": api_namespace.name}, proxy.kubeconfig(tmp_path)
    api_namespace.create(manifest(batchCount=20))
    kills = 0
    while killed_at_its_first_write(proxy, kubeconfig, tmp_path, **told):
        kills += 1
        assert kills < 10, "every operator finds something to write"
    assert kills >= 3
    proxy.fault_for = lambda _: None
    with running_operator(kubeconfig, tmp_path, **told):
        converged(api_namespace, "orders")


def killed_at_its_first_write(proxy: FaultyApiProxy, kubeconfig: Path, folder: Path, **told: str) -> bool:
    """Whether it wrote anything."""
    reached = threading.Event()

    def spoil(request: Request) -> str | None:
        if request.is_write:
            reached.set()
            return "lose"
        return None

    proxy.fault_for = spoil
    operator = OperatorProcess(kubeconfig, folder, **told).start()

    def wrote_or_started() -> None:
        assert reached.is_set() or operator.logged("operator started")

    try:
        eventually(wrote_or_started, pause=0.01)
        return reached.wait(4)
    finally:
        operator.kill()
