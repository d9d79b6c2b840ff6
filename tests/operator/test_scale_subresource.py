"""Scaling by an HPA or by KEDA, with the manifests of docs/scaling.md on a real control plane."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamconsumer.model import names
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.redis_operator import running_with_redis

PAGE = Path(__file__).parents[2] / "docs/scaling.md"
SYNC_SECONDS = 60.0
"""Four sync periods of the HPA controller, which are 15 s each."""


def documented(kind: str) -> dict[str, Any]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (document,) = [document for document in map(yaml.safe_load, blocks) if document.get("kind") == kind]
    return dict(document)


@pytest.mark.parametrize("kind", ["HorizontalPodAutoscaler", "ScaledObject"])
def test_documented_scaler_targets_the_stream_consumer(kind: str) -> None:
    target = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "orders"}
    assert documented(kind)["spec"]["scaleTargetRef"] == target


def test_documented_keda_triggers_name_the_stream_and_the_group() -> None:
    triggers = documented("ScaledObject")["spec"]["triggers"]
    assert {trigger["type"] for trigger in triggers} == {"redis-streams"}
    groups = {(trigger["metadata"]["stream"], trigger["metadata"]["consumerGroup"]) for trigger in triggers}
    assert groups == {("orders", "billing")}


def test_documented_hpa_scales_the_pods_which_return_after_a_resume(plane_namespace: Namespace, tmp_path: Path) -> None:
    hpa = documented("HorizontalPodAutoscaler")
    min_replicas = hpa["spec"]["minReplicas"]
    assert min_replicas > 1, "the HPA controller reaches minReplicas without metrics"
    with running_with_redis(plane_namespace, tmp_path):
        plane_namespace.create(manifest())
        eventually(lambda: check_replicas(plane_namespace, 1))
        plane_namespace.cluster.apply({**hpa, "metadata": {**hpa["metadata"], "namespace": plane_namespace.name}})
        eventually(lambda: check_replicas(plane_namespace, min_replicas), SYNC_SECONDS)
        plane_namespace.edit("orders", suspend=True)
        eventually(lambda: check_replicas(plane_namespace, 0))
        assert plane_namespace.get("StreamConsumer", "orders")["spec"]["replicas"] == min_replicas
        plane_namespace.edit("orders", suspend=False)
        eventually(lambda: check_replicas(plane_namespace, min_replicas))


def check_replicas(namespace: Namespace, number: int) -> None:
    assert namespace.get("Deployment", "orders-consumer")["spec"]["replicas"] == number
    scale = namespace.cluster.request("GET", namespace.path("StreamConsumer", "orders") + "/scale")
    assert scale["status"]["replicas"] == number
    assert len(namespace.list_all("Pod", f"?labelSelector={scale['status']['selector']}")) == number
