"""The hash of Secrets and ConfigMaps that the variables of pods refer to."""

import asyncio
import json
from typing import Any

import pytest

from streamconsumer.errors import PermissionDenied
from streamconsumer.model import names
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.reconcile.config_hash import referenced_config_hash
from streamconsumer.operator.settings import OperatorSettings
from tests.model.examples import consumer, manifest
from tests.operator.namespace import Namespace, eventually, wait_until_settled

FROM_SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "bank", "key": "token"}}}
FROM_CONFIG = {"name": "LIMIT", "valueFrom": {"configMapKeyRef": {"name": "shop", "key": "limit"}}}
ALL_OF_CONFIG = [{"configMapRef": {"name": "shop"}}]


class Objects:
    """The current Secrets and ConfigMaps."""

    def __init__(self, **data: dict[str, str]) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.forbidden: set[str] = set()
        for name, texts in data.items():
            self.put("ConfigMap", name, **texts)

    def put(self, kind: str, name: str, uid: str = "1", **texts: str) -> None:
        self.objects[kind, name] = {"metadata": {"uid": uid}, "data": texts}

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None:
        if kind in self.forbidden:
            raise PermissionDenied(kind)
        return self.objects.get((kind, name))


def digest(objects: Objects, **spec: Any) -> str:
    return asyncio.run(referenced_config_hash(consumer(**spec), objects))


def test_without_references_there_is_no_hash_and_no_annotation() -> None:
    assert digest(Objects()) == ""
    assert names.ANNOTATION_REFERENCES not in json.dumps(desired(consumer(), OperatorSettings(), ""))


def test_unreferenced_keys_do_not_change_the_hash() -> None:
    before = digest(Objects(shop={"limit": "1", "other": "1"}), env=[FROM_CONFIG])
    assert digest(Objects(shop={"limit": "1", "other": "2"}, more={}), env=[FROM_CONFIG]) == before
    assert digest(Objects(shop={"limit": "2", "other": "1"}), env=[FROM_CONFIG]) != before


def test_every_key_of_env_from_changes_the_hash() -> None:
    one, other = Objects(shop={"limit": "1", "other": "1"}), Objects(shop={"limit": "1", "other": "2"})
    both: dict[str, Any] = {"env": [FROM_CONFIG], "envFrom": ALL_OF_CONFIG}
    assert digest(one, **both) != digest(other, **both)


def test_creating_a_referenced_object_changes_the_hash() -> None:
    assert digest(Objects(), env=[FROM_CONFIG]) != digest(Objects(shop={}), env=[FROM_CONFIG])


def test_the_hash_depends_on_the_uid_of_the_secret() -> None:
    objects = Objects()
    objects.put("Secret", "bank", token="x")
    before = digest(objects, env=[FROM_SECRET])
    objects.put("Secret", "bank", uid="2", token="x")
    assert digest(objects, env=[FROM_SECRET]) != before


def test_without_permission_for_secrets_only_config_maps_are_hashed() -> None:
    objects = Objects(shop={"limit": "1"})
    objects.forbidden = {"Secret"}
    hashes = []
    for token in ("x", "y"):
        objects.put("Secret", "bank", token=token)
        hashes.append(digest(objects, env=[FROM_SECRET, FROM_CONFIG]))
    assert hashes[0] == hashes[1] != ""


@pytest.mark.parametrize("kind", ["Secret", "ConfigMap"])
def test_only_a_changed_reference_replaces_the_pods(operator_namespace: Namespace, kind: str) -> None:
    name, data = f"with-{kind.lower()}", "stringData" if kind == "Secret" else "data"
    source = {"secretRef" if kind == "Secret" else "configMapRef": {"name": name}}
    path = f"/api/v1/namespaces/{operator_namespace.name}/{kind.lower()}s"
    body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, data: {"token": "hunter2"}}
    operator_namespace.cluster.request("POST", path, body)
    operator_namespace.create(manifest(name, envFrom=[source]))

    def template() -> Manifest:
        deployment = operator_namespace.find("Deployment", f"{name}-consumer")
        assert deployment
        pod_template: Manifest = deployment["spec"]["template"]
        return pod_template

    before = eventually(template)
    assert names.ANNOTATION_REFERENCES in before["metadata"]["annotations"]
    assert "hunter2" not in json.dumps(before)
    wait_until_settled(operator_namespace, 0.5)
    operator_namespace.patch("StreamConsumer", name, {"metadata": {"labels": {"look": "again"}}})
    wait_until_settled(operator_namespace, 0.5)
    assert template() == before
    operator_namespace.cluster.request("PATCH", f"{path}/{name}", {data: {"token": "correct horse"}})
    operator_namespace.patch("StreamConsumer", name, {"metadata": {"labels": {"look": "once-more"}}})

    def replaced() -> None:
        after = template()
        assert after["spec"] == before["spec"]
        assert after["metadata"] != before["metadata"]

    eventually(replaced)
