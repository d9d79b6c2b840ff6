"""Scaling by an HPA or by KEDA: docs/scaling.md on a real control plane."""

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
"""Four of the 15 s periods in which the HPA controller looks at each HPA."""


def documented(kind: str) -> dict[str, Any]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [each for each in map(yaml.safe_load, blocks) if each.get("kind") == kind]
    return dict(found)


@pytest.mark.parametrize("kind", ["HorizontalPodAutoscaler", "ScaledObject"])
def test_the_documented_scaler_targets_the_streamconsumer_and_not_its_deployment(kind: str) -> None:
    target = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "orders"}
    assert documented(kind)["spec"]["scaleTargetRef"] == target


def test_each_documented_keda_trigger_names_the_stream_and_the_group() -> None:
    triggers = documented("ScaledObject")["spec"]["triggers"]
    assert {each["type"] for each in triggers} == {"redis-streams"}
    found = {(each["metadata"]["stream"], each["metadata"]["consumerGroup"]) for each in triggers}
    assert found == {("orders", "billing")}


def test_the_documented_hpa_scales_the_pods_and_a_resumed_streamconsumer_has_them_again(
    on_plane: Namespace, tmp_path: Path
) -> None:
    hpa = documented("HorizontalPodAutoscaler")
    least = hpa["spec"]["minReplicas"]
    assert least > 1, "the HPA controller reaches minReplicas without metrics"
    with running_with_redis(on_plane, tmp_path):
        on_plane.create(manifest())
        eventually(lambda: check_replicas(on_plane, 1))
        on_plane.cluster.apply({**hpa, "metadata": {**hpa["metadata"], "namespace": on_plane.name}})
        eventually(lambda: check_replicas(on_plane, least), SYNC_SECONDS)
        on_plane.edit("orders", suspend=True)
        eventually(lambda: check_replicas(on_plane, 0))
        assert on_plane.get("StreamConsumer", "orders")["spec"]["replicas"] == least
        on_plane.edit("orders", suspend=False)
        eventually(lambda: check_replicas(on_plane, least))


def check_replicas(place: Namespace, number: int) -> None:
    assert place.get("Deployment", "orders-consumer")["spec"]["replicas"] == number
    scale = place.cluster.request("GET", place.path("StreamConsumer", "orders") + "/scale")
    assert scale["status"]["replicas"] == number
    assert len(place.list_all("Pod", f"?labelSelector={scale['status']['selector']}")) == number
