"""A backup of etcd that is restored while the operator runs: all resource versions go back."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.model.examples import manifest
from tests.operator.conftest import install_crd, wait_until_listed
from tests.operator.namespace import Namespace, eventually, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator

TIMEOUT_SECONDS = 100.0
"""A time limit in seconds. A starting API server may leave an accepted watch without events for 70 s."""

LATER_WRITES = 300
"""Writes between the backup and its restore. The restored etcd reaches none of these versions during the test."""


@pytest.fixture
def own_api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        install_crd(server)
        yield server


def stop_cluster(server: ApiServer) -> None:
    for name in ("kube-apiserver", "etcd"):
        server.programs[name].kill()


def start_cluster(server: ApiServer) -> None:
    for name in ("etcd", "kube-apiserver"):
        server.programs[name].start()
    server.programs["kube-apiserver"].wait_until(server._is_ready, TIMEOUT_SECONDS)
    wait_until_listed(server)


def back_up(server: ApiServer, backup: Path) -> None:
    stop_cluster(server)
    shutil.copytree(server.directory / "etcd", backup)
    start_cluster(server)


def restore(server: ApiServer, backup: Path) -> None:
    stop_cluster(server)
    shutil.rmtree(server.directory / "etcd")
    shutil.copytree(backup, server.directory / "etcd")
    start_cluster(server)


def check_reconciled(namespace: Namespace, name: str, batch_count: str | None) -> None:
    resource, deployment = namespace.get("StreamConsumer", name), namespace.get("Deployment", f"{name}-consumer")
    assert resource.get("status", {}).get("observedGeneration") == resource["metadata"]["generation"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    assert values.get("STREAMCONSUMER_BATCH_COUNT") == batch_count


def wait_until_reconciled(namespace: Namespace, name: str, batch_count: str | None = None) -> None:
    eventually(lambda: check_reconciled(namespace, name, batch_count), TIMEOUT_SECONDS)


def check_metrics(operator: OperatorProcess, names: set[str]) -> None:
    lines = [line for line in operator.metrics().splitlines() if line.startswith("streamconsumer_ready{")]
    assert {line.split('resource_name="')[1].split('"')[0] for line in lines} == names


@pytest.mark.cluster
@pytest.mark.timeout(500)
def test_the_operator_follows_a_restored_etcd_without_a_restart_and_without_writes(
    own_api: ApiServer, tmp_path: Path
) -> None:
    namespace, backup = Namespace(own_api, "default"), tmp_path / "backup"
    with running_operator(own_api.kubeconfig, tmp_path) as operator:
        for name in ("kept", "edited", "deleted"):
            namespace.create(manifest(name))
            wait_until_reconciled(namespace, name)
        wait_until_settled(namespace)
        back_up(own_api, backup)
        versions = wait_until_settled(namespace)
        namespace.edit("edited", batchCount=30)
        namespace.create(manifest("created"))
        wait_until_reconciled(namespace, "edited", "30")
        wait_until_reconciled(namespace, "created")
        namespace.delete("StreamConsumer", "deleted")
        for kind in ("Deployment", "ServiceAccount"):
            namespace.delete(kind, "deleted-consumer")
        eventually(lambda: check_metrics(operator, {"kept", "edited", "created"}), TIMEOUT_SECONDS)
        for number in range(LATER_WRITES):
            namespace.patch("ServiceAccount", "created-consumer", {"metadata": {"annotations": {"n": str(number)}}})

        restore(own_api, backup)
        eventually(lambda: check_metrics(operator, {"kept", "edited", "deleted"}), TIMEOUT_SECONDS)
        assert wait_until_settled(namespace) == versions
        for name, count in (("kept", 40), ("edited", 50), ("deleted", 60)):
            namespace.edit(name, batchCount=count)
        for name, count in (("kept", 40), ("edited", 50), ("deleted", 60)):
            wait_until_reconciled(namespace, name, str(count))
        namespace.create(manifest("created"))
        wait_until_reconciled(namespace, "created")
        assert operator.exit_code is None
