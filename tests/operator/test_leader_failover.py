"""Leader election between two operators: which one leads, and how fast the other one takes over."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually, wait_until_settled
from tests.operator.operator_process import OperatorProcess

CONSUMERS = 50
SOON = 8.0
"""A time limit in seconds. A follower reads the Lease every second and lists all objects before it reconciles. The goal
is 2 s on an idle machine. A Lease that was not released expires after 12 s."""
TIMEOUT_SECONDS = 60.0


class Pair:
    """Two operators of the same namespace. The first one leads."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        variables = {"watch_namespaces": namespace.name, "lease": f"{namespace.name}/operator"}
        self.namespace = namespace
        self.first, self.second = (OperatorProcess(namespace.cluster.kubeconfig, folder, **variables) for _ in range(2))

    def start(self) -> None:
        self.first.start().wait_until_started()
        self.second.start()
        eventually(lambda: check_waiting(self.second))

    @property
    def holder(self) -> str:
        return str(self.namespace.get("Lease", "operator")["spec"].get("holderIdentity", ""))


def check_waiting(operator: OperatorProcess) -> None:
    assert operator.logged("waiting: another replica is the leader"), operator.log.read_text()


@pytest.fixture
def pair(api_namespace: Namespace, tmp_path: Path) -> Iterator[Pair]:
    with running_pair(api_namespace, tmp_path) as pair:
        yield pair


@contextmanager
def running_pair(namespace: Namespace, folder: Path) -> Iterator[Pair]:
    """Run two operators, of which the first one leads."""
    pair = Pair(namespace, folder)
    try:
        pair.start()
        yield pair
    finally:
        pair.first.kill()
        pair.second.kill()


def served_by(operator: OperatorProcess, namespace: Namespace, name: str, within: float) -> float:
    """Wait until this operator has created the Deployment. Returns the seconds."""
    began = time.monotonic()
    eventually(lambda: namespace.get("Deployment", f"{name}-consumer"), within)
    seconds = time.monotonic() - began
    eventually(lambda: check_reported(operator, name), within)
    return seconds


def check_reported(operator: OperatorProcess, name: str) -> None:
    assert [line for line in operator.lines() if line.get("consumer") == name]


def test_only_the_leader_reconciles_and_both_operators_are_ready(pair: Pair) -> None:
    pair.namespace.create(manifest())
    served_by(pair.first, pair.namespace, "orders", within=TIMEOUT_SECONDS)
    wait_until_settled(pair.namespace)
    assert not [line for line in pair.second.lines() if line.get("consumer")]
    assert [each.get("readyz") for each in (pair.first, pair.second)] == [(200, "ok\n"), (200, "ok, follower\n")]
    assert [each.get("livez")[0] for each in (pair.first, pair.second)] == [200, 200]


def test_a_leader_that_is_stopped_releases_the_lease_immediately(pair: Pair) -> None:
    assert pair.first.stop()[0] == 0
    pair.namespace.create(manifest())
    seconds = served_by(pair.second, pair.namespace, "orders", within=SOON)
    print(f"\nafter SIGTERM another operator had created the Deployment within {seconds:.2f} s")
    assert pair.second.stop()[0] == 0
    assert pair.holder == ""
    assert pair.namespace.get("Lease", "operator")["spec"]["leaseTransitions"] == 2


def test_the_follower_becomes_leader_when_the_leader_is_killed(pair: Pair) -> None:
    dead = pair.holder
    pair.first.kill()
    pair.namespace.create(manifest())
    seconds = served_by(pair.second, pair.namespace, "orders", within=TIMEOUT_SECONDS)
    print(f"\nafter kill -9 another operator had created the Deployment within {seconds:.2f} s")
    assert pair.holder != dead


@pytest.mark.timeout(120)
def test_50_edits_are_completed_when_the_leader_is_killed(plane_namespace: Namespace, tmp_path: Path) -> None:
    """Kubernetes' own controllers run at the same time."""
    names = [f"orders-{number}" for number in range(CONSUMERS)]
    everything = {"apiVersion": "v1", "kind": "List", "items": [manifest(name, plane_namespace.name) for name in names]}
    with running_pair(plane_namespace, tmp_path) as pair:
        plane_namespace.cluster.kubectl("create", "-f", "-", input=json.dumps(everything))
        eventually(lambda: check_converged(plane_namespace, names, edited=False), timeout=TIMEOUT_SECONDS)
        before = {each["metadata"]["name"]: each["metadata"]["uid"] for each in plane_namespace.list_all("Deployment")}
        for name in names[: CONSUMERS // 2]:
            plane_namespace.edit(name, concurrency=20)
        pair.first.kill()
        killed = time.monotonic()
        for name in names[CONSUMERS // 2 :]:
            plane_namespace.edit(name, concurrency=20)
        eventually(lambda: check_leads(pair.second), timeout=TIMEOUT_SECONDS)
        led = time.monotonic() - killed
        eventually(lambda: check_converged(plane_namespace, names, edited=True), timeout=TIMEOUT_SECONDS)
        print(f"\nafter kill -9: new leader after {led:.2f} s, {CONSUMERS} edits done after {elapsed(killed):.2f} s")
        assert {
            each["metadata"]["name"]: each["metadata"]["uid"] for each in plane_namespace.list_all("Deployment")
        } == before
        assert pair.second.unexpected_lines() == []


def elapsed(since: float) -> float:
    return time.monotonic() - since


def check_converged(namespace: Namespace, names: list[str], *, edited: bool) -> None:
    """Check that every StreamConsumer has one Deployment with the edit, and a current status."""
    stated = {"name": "STREAMCONSUMER_CONCURRENCY", "value": "20"}
    deployments = {each["metadata"]["name"]: each for each in namespace.list_all("Deployment")}
    assert set(deployments) == {f"{name}-consumer" for name in names}
    for each in deployments.values():
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert (stated in container["env"]) == edited
    for each in namespace.list_all("StreamConsumer"):
        assert each["status"]["observedGeneration"] == each["metadata"]["generation"]


def test_a_frozen_leader_exits_when_another_operator_has_become_leader(pair: Pair) -> None:
    os.kill(pair.first.pid, signal.SIGSTOP)
    eventually(lambda: check_leads(pair.second), timeout=TIMEOUT_SECONDS)
    leader = pair.holder
    os.kill(pair.first.pid, signal.SIGCONT)
    eventually(lambda: check_exited(pair.first, 1))
    assert pair.first.logged("lost the leader lease; exiting")
    assert pair.holder == leader


def test_an_operator_leads_again_when_the_lease_is_deleted(pair: Pair) -> None:
    pair.namespace.delete("Lease", "operator")
    eventually(lambda: check_exited(pair.first, 1))
    eventually(lambda: check_leads(pair.second))


def check_leads(operator: OperatorProcess) -> None:
    assert operator.logged("operator started")


def check_exited(operator: OperatorProcess, code: int) -> None:
    assert operator.exit_code == code
