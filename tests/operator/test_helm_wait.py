"""`helm install --wait` with StreamConsumers. Helm 4 uses kstatus as Flux does, so Flux behaves the same."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.errors import BenchError
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace
from tests.operator.operator_process import running_operator


@pytest.fixture
def served_namespace(plane_namespace: Namespace, tmp_path: Path) -> Iterator[Namespace]:
    with running_operator(plane_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=plane_namespace.name):
        yield plane_namespace


def install(namespace: Namespace, folder: Path, consumer: Manifest, *arguments: str) -> None:
    """Install a chart that contains only this StreamConsumer."""
    chart = folder / f"chart-{consumer['metadata']['name']}"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": "shop", "version": "1.0.0"}))
    consumer["metadata"].pop("namespace", None)
    (chart / "templates" / "consumer.yaml").write_text(yaml.safe_dump(consumer))
    release = (consumer["metadata"]["name"], str(chart), "--namespace", namespace.name)
    namespace.cluster.helm("install", *release, "--wait", *arguments)


def test_helm_waits_until_a_streamconsumer_is_ready(served_namespace: Namespace, tmp_path: Path) -> None:
    """Helm starts to wait before the operator writes a status, and kstatus takes a missing status for ready."""
    install(served_namespace, tmp_path, manifest("none-wanted", replicas=0), "--timeout=60s")
    assert served_namespace.reason("none-wanted") == "ScaledToZero"


def test_helm_stops_waiting_for_a_stalled_streamconsumer_and_prints_the_message(
    served_namespace: Namespace, tmp_path: Path
) -> None:
    labels = {"app": "foreign"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    served_namespace.create(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "taken-consumer"}, "spec": spec}
    )
    begin = time.monotonic()
    with pytest.raises(BenchError, match="Otherwise, give the StreamConsumer another name"):
        install(served_namespace, tmp_path, manifest("taken"), "--timeout=60s")
    assert time.monotonic() - begin < 50


def test_helm_does_not_report_ready_without_an_operator(api_namespace: Namespace, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="InProgress"):
        install(api_namespace, tmp_path, manifest(), "--timeout=2s")
