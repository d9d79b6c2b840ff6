"""Admission controllers that change the fields that the operator applies, as image rewriters and Autopilot do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model import names
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually, wait_until_reconciled, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator

CONTAINER = "/spec/template/spec/containers/0"

GENERATION = '"mirror.example/shop:" + (oldObject == null ? "0" : string(oldObject.metadata.generation))'

OVERRIDES: dict[str, tuple[str, list[str]]] = {
    "another image": (
        f'JSONPatch{{op: "replace", path: "{CONTAINER}/image", value: "mirror.example/shop:1"}}',
        ["spec.template.spec.containers[processor].image"],
    ),
    "another image for each write": (
        f'JSONPatch{{op: "replace", path: "{CONTAINER}/image", value: {GENERATION}}}',
        ["spec.template.spec.containers[processor].image"],
    ),
    "larger requests": (
        f'JSONPatch{{op: "replace", path: "{CONTAINER}/resources/requests/cpu", value: "200m"}}',
        ["spec.template.spec.containers[processor].resources.requests.cpu"],
    ),
    "a variable without its value": (
        f'JSONPatch{{op: "replace", path: "{CONTAINER}/env/0", value: {{"name": "OTHER", "value": "x"}}}}',
        ["spec.template.spec.containers[processor].env["],
    ),
    "a removed security context": (
        'JSONPatch{op: "remove", path: "/spec/template/spec/securityContext"}',
        ["spec.template.spec.securityContext"],
    ),
    "a removed capability list": (
        f'JSONPatch{{op: "replace", path: "{CONTAINER}/securityContext/capabilities/drop", value: ["ALL", "KILL"]}}',
        ["spec.template.spec.containers[processor].securityContext.capabilities.drop"],
    ),
    "another label": (
        'JSONPatch{op: "replace", path: "/metadata/labels/app.kubernetes.io~1part-of", value: "platform"}',
        ["metadata.labels[app.kubernetes.io/part-of]"],
    ),
    "another number of pods": (
        'JSONPatch{op: "replace", path: "/spec/replicas", value: 3}',
        ["spec.replicas"],
    ),
}

SPEC: dict[str, Any] = {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "0.3333"}}}


@contextmanager
def mutating_policy(namespace: Namespace, patch: str) -> Iterator[None]:
    """Change each Deployment of the namespace on create and update."""
    name = f"override-{namespace.name}"
    spec = {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
            "resourceRules": [
                {
                    "apiGroups": ["apps"],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["deployments"],
                }
            ],
        },
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{patch}]"}}],
    }
    api_version = "admissionregistration.k8s.io/v1"
    policy = {"apiVersion": api_version, "kind": "MutatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec}
    binding = {**policy, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": name}}
    prefix = f"/apis/{api_version}"
    namespace.cluster.request("POST", f"{prefix}/mutatingadmissionpolicies", policy)
    namespace.cluster.request("POST", f"{prefix}/mutatingadmissionpolicybindings", binding)
    try:
        eventually(lambda: check_is_active(namespace))
        yield
    finally:
        namespace.cluster.request("DELETE", f"{prefix}/mutatingadmissionpolicybindings/{name}")
        namespace.cluster.request("DELETE", f"{prefix}/mutatingadmissionpolicies/{name}")


def check_is_active(namespace: Namespace) -> None:
    """The API server compiles a new policy in the background."""
    labels = {"app": "check", "app.kubernetes.io/part-of": "x"}
    security = {"capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "check",
        "image": "check",
        "resources": {"requests": {"cpu": "1m"}},
        "env": [{"name": "A", "value": "a"}],
        "securityContext": security,
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "securityContext": {"runAsNonRoot": True}},
    }
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "check", "labels": labels, "namespace": namespace.name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "check"}}, "template": template},
    }
    stored = namespace.cluster.request("POST", namespace.path("Deployment") + "?dryRun=All", body)
    changed = stored["metadata"]["labels"] != labels or stored["spec"]["replicas"] != 1
    pod = stored["spec"]["template"]["spec"]
    found = {key: pod["containers"][0].get(key) for key in container}
    assert changed or found != container or "runAsNonRoot" not in pod.get("securityContext", {})


@contextmanager
def operator_for(namespace: Namespace, folder: Path) -> Iterator[OperatorProcess]:
    with running_operator(namespace.cluster.kubeconfig, folder, watch_namespaces=namespace.name) as operator:
        yield operator


@pytest.mark.parametrize(("patch", "paths"), OVERRIDES.values(), ids=OVERRIDES)
def test_a_field_that_admission_changes_is_applied_once_and_named(
    api_namespace: Namespace, tmp_path: Path, patch: str, paths: list[str]
) -> None:
    with mutating_policy(api_namespace, patch):
        with operator_for(api_namespace, tmp_path) as operator:
            api_namespace.create(manifest(**SPEC))
            wait_until_reconciled(api_namespace, "orders")
            settled = wait_until_settled(api_namespace)
            api_namespace.patch("StreamConsumer", "orders", {"metadata": {"labels": {"touched": "1"}}})
            wait_until_settled(api_namespace)
            deployment = api_namespace.get("Deployment", "orders-consumer")
            assert settled[deployment["metadata"]["uid"]] == deployment["metadata"]["resourceVersion"]
            assert deployment["metadata"]["generation"] == 1
            events = dict(api_namespace.events("orders"))
            assert set(events) == {"Created", "FieldOverridden"}
            assert all(path in events["FieldOverridden"] for path in paths)

            changed = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}
            api_namespace.patch("Deployment", "orders-consumer", changed)
            eventually(lambda: check_grace_period(api_namespace))
            before = wait_until_settled(api_namespace)
            assert [reason for reason, _ in api_namespace.events("orders")].count("FieldOverridden") == 1
            operator.stop()
        with operator_for(api_namespace, tmp_path) as second:
            eventually(lambda: check_reconciled(second))
            assert wait_until_settled(api_namespace, 2) == before


def check_grace_period(namespace: Namespace) -> None:
    pod = namespace.get("Deployment", "orders-consumer")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] != 1


def check_reconciled(operator: OperatorProcess) -> None:
    assert re.search(r'reconciles_total\{outcome="success"\} [1-9]', operator.metrics())


def test_an_edit_during_a_restart_of_the_operator_is_reverted_beside_an_overridden_field(
    api_namespace: Namespace, tmp_path: Path
) -> None:
    patch, _ = OVERRIDES["another image"]
    with mutating_policy(api_namespace, patch):
        with operator_for(api_namespace, tmp_path) as operator:
            api_namespace.create(manifest(**SPEC))
            wait_until_reconciled(api_namespace, "orders")
            wait_until_settled(api_namespace)
            operator.stop()
        changed = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}
        api_namespace.patch("Deployment", "orders-consumer", changed)
        with operator_for(api_namespace, tmp_path):
            eventually(lambda: check_grace_period(api_namespace))
            eventually(lambda: check_reverted(api_namespace))


def check_reverted(namespace: Namespace) -> None:
    assert ("DriftRepaired", "reverted changes to Deployment orders-consumer") in namespace.events("orders")


def test_a_quantity_that_the_api_server_rounds_causes_no_event(api_namespace: Namespace, tmp_path: Path) -> None:
    with operator_for(api_namespace, tmp_path):
        api_namespace.create(manifest(**SPEC))
        live = wait_until_reconciled(api_namespace, "orders")
        wait_until_settled(api_namespace)
    container = live["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["cpu"] == "334m"
    assert api_namespace.get("Deployment", "orders-consumer")["metadata"]["generation"] == 1
    assert [reason for reason, _ in api_namespace.events("orders")] == ["Created"]
    assert names.ANNOTATION_APPLIED in live["metadata"]["annotations"]
