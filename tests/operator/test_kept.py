"""What is remembered of an object is enough for whoever reads it, and no more."""

import json
import tracemalloc
from typing import Any

from streamconsumer.operator.kept import kept
from streamconsumer.operator.manifests import Manifest

FOREIGN = {"manager": "hpa", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}


def deployment(**metadata: Any) -> Manifest:
    return {"kind": "Deployment", "metadata": {"name": "orders-consumer", **metadata}, "spec": {"paused": True}}


def test_who_owns_which_field_is_not_kept() -> None:
    assert kept(deployment(managedFields=[FOREIGN], creationTimestamp="2026-11-25T12:00:00Z")) == deployment()


def test_what_kubectl_notes_for_itself_is_not_kept() -> None:
    note = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    assert kept(deployment(annotations={**note, "team": "shop"})) == deployment(annotations={"team": "shop"})


def test_of_what_a_deployment_says_of_itself_the_troubles_are_kept_without_their_times() -> None:
    failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    told = [{"type": "Available", "status": "False"}, {**failed, "lastUpdateTime": "2026-11-25T12:00:00Z"}]
    found = kept({**deployment(), "status": {"replicas": 1, "conditions": told}})
    assert found == {**deployment(), "status": {"replicas": 1, "conditions": [failed]}}


def test_of_a_pod_its_fate_and_its_source_are_kept() -> None:
    waiting = {"name": "consumer", "ready": False, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    scheduled = {"type": "PodScheduled", "status": "True"}
    source = {"name": "source", "configMap": {"name": "orders-consumer-1"}}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "orders-consumer-1", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "consumer"}], "volumes": [source, {"name": "tmp", "emptyDir": {}}]},
        "status": {
            "phase": "Pending",
            "podIP": "10.0.0.1",
            "conditions": [scheduled, {"type": "Ready", "status": "False"}],
            "containerStatuses": [{**waiting, "imageID": "sha256:0"}],
        },
    }
    assert kept(pod) == {
        **pod,
        "spec": {"volumes": [source]},
        "status": {"phase": "Pending", "conditions": [scheduled], "containerStatuses": [waiting]},
    }


def test_each_word_is_kept_once() -> None:
    told = json.dumps(deployment(labels={"team": "fulfilment"}))
    one, other = (kept(json.loads(told))["metadata"]["labels"] for _ in range(2))
    assert next(iter(one)) is next(iter(other))
    assert one["team"] is other["team"]


def test_what_two_objects_have_in_common_is_kept_once() -> None:
    probe = {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 5}
    one, other = (
        kept(json.loads(json.dumps({**deployment(uid=uid), "spec": {"containers": [{"name": "p", "probe": probe}]}})))
        for uid in ("d-1", "d-2")
    )
    assert one["spec"] is other["spec"]
    assert one["metadata"] == {**other["metadata"], "uid": "d-1"}


def test_what_only_looks_the_same_is_kept_apart() -> None:
    values: list[Any] = [1, True, 1.0, "1", None, [], {}, [[]], [{}], {"a": 1}, {"a": True}, "x" * 100, "y" * 100]
    found = [kept({**deployment(), "spec": {"value": each}})["spec"]["value"] for each in values]
    assert [(type(each), json.dumps(each)) for each in found] == [(type(each), json.dumps(each)) for each in values]


def test_what_is_kept_once_stays_right_however_much_has_passed() -> None:
    for number in range(30_000):
        spec = {"replicas": number % 7, "list": [{"number": number}, {"sentence": str(number) * 20}]}
        assert kept({**deployment(), "spec": spec})["spec"] == spec


def test_a_large_text_is_held_by_its_object_alone() -> None:
    """A resource with its handler's source in it has a new version with each of its statuses."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for version in range(300):
            spec = {"handler": {"source": "".join(["x"] * 100_000)}, "stream": "orders"}
            kept({**deployment(resourceVersion=str(version)), "spec": spec, "status": {"message": f"{version} " * 100}})
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 << 20
