"""The transform of objects before they are cached."""

import json
from typing import Any

from streamconsumer.operator.cache.transform import strip_unused
from streamconsumer.operator.manifests import Manifest

FOREIGN = {"manager": "hpa", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}


def deployment(**metadata: Any) -> Manifest:
    return {"kind": "Deployment", "metadata": {"name": "orders-consumer", **metadata}, "spec": {"paused": True}}


def test_field_ownership_is_dropped() -> None:
    assert strip_unused(deployment(managedFields=[FOREIGN], creationTimestamp="2026-11-25T12:00:00Z")) == deployment()


def test_the_last_applied_annotation_of_kubectl_is_dropped() -> None:
    note = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    assert strip_unused(deployment(annotations={**note, "team": "shop"})) == deployment(annotations={"team": "shop"})


def test_problem_conditions_of_a_deployment_are_kept_without_timestamps() -> None:
    failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    conditions = [{"type": "Available", "status": "False"}, {**failed, "lastUpdateTime": "2026-11-25T12:00:00Z"}]
    stripped = strip_unused({**deployment(), "status": {"replicas": 1, "conditions": conditions}})
    assert stripped == {**deployment(), "status": {"replicas": 1, "conditions": [failed]}}


def test_a_pod_keeps_its_status_and_its_mounted_config_maps() -> None:
    waiting = {"name": "consumer", "ready": False, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    scheduled = {"type": "PodScheduled", "status": "True"}
    source = {"name": "source", "configMap": {"name": "orders-consumer-1"}}
    cost = {"controller.kubernetes.io/pod-deletion-cost": "3"}
    pod: Manifest = {
        "kind": "Pod",
        "metadata": {"name": "orders-consumer-1", "labels": {"a": "b"}, "annotations": cost},
        "spec": {"containers": [{"name": "consumer"}], "volumes": [source, {"name": "tmp", "emptyDir": {}}]},
        "status": {
            "phase": "Pending",
            "podIP": "10.0.0.1",
            "conditions": [scheduled, {"type": "Ready", "status": "False"}],
            "containerStatuses": [{**waiting, "imageID": "sha256:0"}],
        },
    }
    received = {**pod, "metadata": {**pod["metadata"], "annotations": {**cost, "note": "x"}}}
    assert strip_unused(received) == {
        **pod,
        "spec": {"volumes": [source]},
        "status": {"phase": "Pending", "conditions": [scheduled], "containerStatuses": [waiting]},
    }


def test_equal_strings_share_one_object() -> None:
    text = json.dumps(deployment(labels={"team": "fulfilment"}))
    one, other = (strip_unused(json.loads(text))["metadata"]["labels"] for _ in range(2))
    assert next(iter(one)) is next(iter(other))
    assert one["team"] is other["team"]
