"""The hash of Secrets and ConfigMaps that the variables of pods refer to."""

import asyncio
import json
from typing import Any

import pytest

from streamconsumer.errors import PermissionDenied
from streamconsumer.model import names
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.reconcile.config_hash import next_references, read_reference_hashes
from streamconsumer.operator.settings import OperatorSettings
from tests.charts.rendering import of_kind
from tests.model.examples import consumer, manifest
from tests.operator.namespace import Namespace, eventually, wait_until_settled

FROM_SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "bank", "key": "token"}}}
FROM_CONFIG = {"name": "LIMIT", "valueFrom": {"configMapKeyRef": {"name": "shop", "key": "limit"}}}
PODS = names.ANNOTATION_REFERENCES
SETTINGS = OperatorSettings()
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


def hashes(objects: Objects, **spec: Any) -> dict[str, str] | None:
    return asyncio.run(read_reference_hashes(consumer(**spec), objects))


def digest(objects: Objects, **spec: Any) -> str:
    """Return the annotation in the pod template of a new Deployment."""
    return next_references(None, hashes(objects, **spec) or {}).template


class Rollouts:
    """A Deployment whose annotations are updated as in a reconcile. `count` is the number of rollouts."""

    def __init__(self, objects: Objects) -> None:
        self.objects, self.count = objects, 0
        self.deployment: Manifest | None = None
        self.reconcile()
        self.count = 0

    def reconcile(self) -> int:
        """Reconcile and return the number of rollouts since the creation. All state is in the Deployment, as after a
        restart of the operator."""
        references = next_references(self.deployment, hashes(self.objects, env=[FROM_SECRET, FROM_CONFIG]) or {})
        before, (self.deployment,) = self.deployment, of_kind("Deployment", desired(consumer(), SETTINGS, references))
        assert self.deployment is not None
        self.count += before is None or before["spec"] != self.deployment["spec"]
        return self.count


def test_without_references_there_is_no_hash_and_no_annotation() -> None:
    assert hashes(Objects()) is None
    manifests = json.dumps(desired(consumer(), SETTINGS))
    assert names.ANNOTATION_REFERENCES not in manifests
    assert names.ANNOTATION_KNOWN_REFERENCES not in manifests


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


@pytest.mark.parametrize("readable_at_first", [True, False])
def test_granting_and_revoking_alone_starts_no_rollout(readable_at_first: bool) -> None:
    objects = Objects(shop={"limit": "1"})
    objects.put("Secret", "bank", token="x")
    objects.forbidden = set() if readable_at_first else {"Secret"}
    rollouts = Rollouts(objects)
    for forbidden in (set[str](), {"Secret"}, {"Secret"}, set[str](), set[str](), {"Secret"}):
        objects.forbidden = forbidden
        assert rollouts.reconcile() == 0


def test_a_changed_secret_starts_one_rollout_after_the_permission_was_granted() -> None:
    objects = Objects(shop={"limit": "1"})
    objects.put("Secret", "bank", token="x")
    objects.forbidden = {"Secret"}
    rollouts = Rollouts(objects)
    objects.forbidden = set()
    assert rollouts.reconcile() == 0
    objects.put("Secret", "bank", token="y")
    assert [rollouts.reconcile() for _ in range(3)] == [1, 1, 1]
    objects.put("Secret", "bank", token="x")
    assert [rollouts.reconcile() for _ in range(2)] == [2, 2]


def test_a_secret_that_changes_while_it_is_not_readable_starts_no_rollout() -> None:
    objects = Objects(shop={"limit": "1"})
    objects.put("Secret", "bank", token="x")
    rollouts = Rollouts(objects)
    objects.forbidden = {"Secret"}
    rollouts.reconcile()
    objects.put("Secret", "bank", token="y")
    assert rollouts.reconcile() == 0
    objects.forbidden = set()
    assert rollouts.reconcile() == 0
    objects.put("Secret", "bank", token="x")
    assert rollouts.reconcile() == 1, "pods that started in the meantime have the other value"


def test_a_changed_config_map_starts_one_rollout_while_secrets_are_not_readable() -> None:
    objects = Objects(shop={"limit": "1"})
    objects.forbidden = {"Secret"}
    rollouts = Rollouts(objects)
    objects.put("ConfigMap", "shop", limit="2")
    assert [rollouts.reconcile() for _ in range(2)] == [1, 1]


def test_the_annotation_of_a_previous_operator_is_kept() -> None:
    deployment = {"metadata": {}, "spec": {"template": {"metadata": {"annotations": {PODS: "0123456789abcdef"}}}}}
    assert next_references(deployment, {"Secret/bank": "12"}) == ("0123456789abcdef", "Secret/bank=12")


@pytest.mark.parametrize("text", ["", "=", ",,", "x", "{}", "Secret/bank", "a=b=c,,Secret/other=1", "\x00"])
def test_an_annotation_that_a_user_has_changed_is_not_an_error(text: str) -> None:
    annotations = {names.ANNOTATION_KNOWN_REFERENCES: text}
    deployment = {"metadata": {"annotations": annotations}, "spec": {"template": {"metadata": {}}}}
    assert next_references(deployment, {"Secret/bank": "12"}).known == "Secret/bank=12"


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
