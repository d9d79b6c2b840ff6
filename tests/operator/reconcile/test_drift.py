from typing import Any

import pytest

from streamconsumer.operator.manifests import desired
from streamconsumer.operator.reconcile.drift import describe, differences
from streamconsumer.operator.settings import OperatorSettings
from tests.model.examples import consumer


def container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "processor", "image": "shop:1", **fields}]}


CONTAINED: dict[str, tuple[Any, Any]] = {
    "the same": ({"a": 1}, {"a": 1}),
    "a field that another client added": ({"a": 1, "b": 2}, {"a": 1}),
    "a sidecar that was injected": (
        {"containers": [{"name": "proxy"}, {"name": "processor", "image": "shop:1"}]},
        container(),
    ),
    "a variable that another client added": (
        container(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
        container(env=[{"name": "A", "value": "1"}]),
    ),
    "named items in another order": (
        container(env=[{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]),
        container(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
    ),
    "an empty value that the API server omits": (
        container(env=[{"name": "A"}]),
        container(env=[{"name": "A", "value": ""}]),
    ),
    "a volume with a second mount of another client": (
        container(volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/run"}]),
        container(volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}]),
    ),
    "another owner of the same name": (
        {"ownerReferences": [{"name": "orders", "uid": "1"}, {"name": "orders", "uid": "2"}]},
        {"ownerReferences": [{"name": "orders", "uid": "1"}]},
    ),
    "a thousand milli": ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1000m"}}),
    "half a processor": ({"limits": {"cpu": "500m"}}, {"limits": {"cpu": "0.5"}}),
    "1024 mebi": ({"limits": {"memory": "1Gi"}}, {"limits": {"memory": "1024Mi"}}),
    "one and a half gibi": ({"limits": {"memory": "1536Mi"}}, {"limits": {"memory": "1.5Gi"}}),
    "a third of a processor, rounded up": (
        {"limits": {"cpu": "334m"}},
        {"limits": {"cpu": "0.3333"}},
    ),
    "a number with an exponent": ({"limits": {"memory": "1k"}}, {"limits": {"memory": "1e3"}}),
    "a quantity that is a number": ({"limits": {"cpu": 2}}, {"limits": {"cpu": "2"}}),
    "a volume's size": ({"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {"sizeLimit": "1024Mi"}}),
    "a plain list": ({"drop": ["ALL"]}, {"drop": ["ALL"]}),
}

DRIFTED: dict[str, tuple[Any, Any]] = {
    "a missing field": ({}, {"a": 1}),
    "nothing at all": (None, {"a": 1}),
    "a changed field": ({"a": 2}, {"a": 1}),
    "a changed image": ({"containers": [{"name": "processor", "image": "shop:2"}]}, container()),
    "a missing container": ({"containers": [{"name": "proxy"}]}, container()),
    "a removed variable": (container(env=[]), container(env=[{"name": "A", "value": "1"}])),
    "a removed list": (container(), container(env=[{"name": "A", "value": "1"}])),
    "a changed variable": (
        container(env=[{"name": "A", "value": "2"}]),
        container(env=[{"name": "A", "value": "1"}]),
    ),
    "a variable that is a version": (
        container(env=[{"name": "A", "value": "1.2.4"}]),
        container(env=[{"name": "A", "value": "1.2.3"}]),
    ),
    "a variable that is the same quantity": (
        container(env=[{"name": "A", "value": "1"}]),
        container(env=[{"name": "A", "value": "1000m"}]),
    ),
    "a variable from another source": (
        container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
        container(env=[{"name": "A", "value": "1"}]),
    ),
    "another quantity": ({"limits": {"memory": "1G"}}, {"limits": {"memory": "1Gi"}}),
    "a plain list that grew": ({"drop": ["ALL", "CHOWN"]}, {"drop": ["ALL"]}),
    "a plain list that shrank": ({"drop": []}, {"drop": ["ALL"]}),
    "a string for true": ({"a": "true"}, {"a": True}),
    "a list for an object": ({"a": []}, {"a": {"b": 1}}),
    "an object for a list": ({"a": {"b": 1}}, {"a": [1]}),
    "a list of the wrong items": ({"containers": ["processor"]}, container()),
}


@pytest.mark.parametrize(("live", "applied"), CONTAINED.values(), ids=CONTAINED)
def test_live_object_contains_the_applied_manifest(live: Any, applied: Any) -> None:
    assert not differences(live, applied)


@pytest.mark.parametrize(("live", "applied"), DRIFTED.values(), ids=DRIFTED)
def test_live_object_has_drifted(live: Any, applied: Any) -> None:
    assert differences(live, applied)


def test_a_manifest_contains_itself_and_no_other() -> None:
    children = desired(consumer(handler={"source": "x = 1"}, replicas=2), OperatorSettings())
    assert all(not differences(child, child) for child in children)
    assert all(differences(one, other) for one in children for other in children if one is not other)


def test_each_field_that_differs_is_named_with_its_live_value() -> None:
    live = {"spec": {"replicas": 3, "template": container(image="mirror/shop:1", env=[{"name": "A", "value": "1"}])}}
    applied = {"spec": {"replicas": 2, "template": container(env=[{"name": "A", "value": "2"}], command=["run"])}}
    found = {describe(path): value for path, value in differences(live, applied).items()}
    prefix = "spec.template.containers[processor]"
    assert found == {
        "spec.replicas": 3,
        f"{prefix}.image": "mirror/shop:1",
        f"{prefix}.env[A].value": "1",
        f"{prefix}.command": None,
    }


def test_the_name_of_an_annotation_is_in_brackets() -> None:
    found = differences({"metadata": {}}, {"metadata": {"annotations": {"example.com/a": "1"}}})
    assert [describe(path) for path in found] == ["metadata.annotations"]
    found = differences({"annotations": {}}, {"annotations": {"example.com/a": "1"}})
    assert [describe(path) for path in found] == ["annotations[example.com/a]"]
