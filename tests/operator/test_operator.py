"""The operator with Kubernetes' own controllers. The tests of this module share one operator."""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.model.status import STREAM_CONDITIONS
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import TIMEOUT_SECONDS, Namespace, eventually, wait_until_settled
from tests.operator.operator_process import OperatorProcess


def wait_for_children(namespace: Namespace, name: str, *kinds: str) -> dict[str, Manifest]:
    """Wait until the StreamConsumer has exactly these kinds of children. Returns the children."""

    def complete() -> dict[str, Manifest]:
        children = namespace.children(name)
        assert set(children) == set(kinds)
        return children

    return eventually(complete, TIMEOUT_SECONDS)


def check_event_reasons(namespace: Namespace, name: str, reasons: set[str]) -> None:
    assert {reason for reason, _ in namespace.events(name)} == reasons


def check_event(namespace: Namespace, name: str, event: tuple[str, str]) -> None:
    assert event in namespace.events(name)


def container(deployment: Manifest) -> dict[str, Any]:
    (processor,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(processor)


def test_a_streamconsumer_has_a_service_account_and_a_deployment(operator_namespace: Namespace) -> None:
    created = operator_namespace.create(manifest("plain"))
    children = wait_for_children(operator_namespace, "plain", "ServiceAccount", "Deployment")
    for child in children.values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("StreamConsumer", "plain", created["metadata"]["uid"])
        assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, True)
        (manager,) = {each["manager"] for each in child["metadata"]["managedFields"] if "subresource" not in each}
        assert manager == "streamconsumer-operator"
    assert container(children["Deployment"])["image"] == "shop:1.4"


def test_the_status_has_the_observed_generation(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("status"))

    def reported(generation: int) -> dict[str, Manifest]:
        status = operator_namespace.get("StreamConsumer", "status").get("status", {})
        assert status.get("observedGeneration") == generation
        assert {each["observedGeneration"] for each in status["conditions"]} == {generation}
        return operator_namespace.conditions("status")

    first = eventually(lambda: reported(1), TIMEOUT_SECONDS)
    assert set(first) - set(STREAM_CONDITIONS) == {"Ready", "Reconciling", "Stalled", "Suspended"}
    since = datetime.fromisoformat(first["Ready"]["lastTransitionTime"])
    assert abs((datetime.now(UTC) - since).total_seconds()) < 120
    operator_namespace.edit("status", batchCount=20)
    second = eventually(lambda: reported(2), TIMEOUT_SECONDS)
    assert second["Ready"]["lastTransitionTime"] == first["Ready"]["lastTransitionTime"]


def test_unschedulable_pods_are_reported_with_the_message_of_the_scheduler(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("nowhere"))

    def reported() -> Manifest:
        assert operator_namespace.reason("nowhere") == "Unschedulable"
        return operator_namespace.conditions("nowhere")["Ready"]

    assert "no nodes available" in eventually(reported, TIMEOUT_SECONDS)["message"]


def test_a_source_config_map_is_pruned_when_the_handler_changes(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("source", handler={"source": "def handle(data): ..."}))
    children = wait_for_children(operator_namespace, "source", "ServiceAccount", "ConfigMap", "Deployment")
    assert children["ConfigMap"]["data"] == {"handler_source.py": "def handle(data): ..."}
    name = children["ConfigMap"]["metadata"]["name"]
    operator_namespace.edit("source", handler={"source": None, "python": "shop.orders:handle"})
    wait_for_children(operator_namespace, "source", "ServiceAccount", "Deployment")
    pruned = ("Pruned", f"deleted ConfigMap {name}, which is no longer needed")
    eventually(lambda: check_event(operator_namespace, "source", pruned), TIMEOUT_SECONDS)


def test_editing_the_source_rolls_the_pods(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("rolled", handler={"source": "def handle(data): ..."}))
    children = wait_for_children(operator_namespace, "rolled", "ServiceAccount", "ConfigMap", "Deployment")
    old, before = children["ConfigMap"]["metadata"]["name"], children["Deployment"]["spec"]["template"]
    operator_namespace.edit("rolled", handler={"source": "def handle(data): print(data)"})

    def rolled() -> None:
        after = wait_for_children(operator_namespace, "rolled", "ServiceAccount", "ConfigMap", "Deployment")
        assert "print" in after["ConfigMap"]["data"]["handler_source.py"]
        assert after["ConfigMap"]["metadata"]["name"] != old, (
            "otherwise a kubelet may mount the old source into new pods"
        )
        assert after["Deployment"]["spec"]["template"] != before

    eventually(rolled, TIMEOUT_SECONDS)


def test_a_pod_disruption_budget_exists_only_with_two_or_more_replicas(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("pair"))
    wait_for_children(operator_namespace, "pair", "ServiceAccount", "Deployment")
    operator_namespace.kubectl("scale", "stc/pair", "--replicas=2")
    children = wait_for_children(operator_namespace, "pair", "ServiceAccount", "Deployment", "PodDisruptionBudget")
    assert children["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    operator_namespace.kubectl("scale", "stc/pair", "--replicas=1")
    wait_for_children(operator_namespace, "pair", "ServiceAccount", "Deployment")


def test_kubectl_scale_changes_the_deployment_and_its_pods(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("scaled"))
    before = wait_for_children(operator_namespace, "scaled", "ServiceAccount", "Deployment")["Deployment"]
    operator_namespace.kubectl("scale", "stc/scaled", "--replicas=3")

    def scaled() -> Manifest:
        assert operator_namespace.get("StreamConsumer", "scaled")["status"]["replicas"] == 3
        return operator_namespace.get("Deployment", "scaled-consumer")

    after = eventually(scaled, TIMEOUT_SECONDS)
    assert after["spec"]["replicas"] == 3
    assert after["spec"]["template"] == before["spec"]["template"]
    scale = operator_namespace.cluster.request("GET", operator_namespace.path("StreamConsumer", "scaled") + "/scale")
    assert scale["status"]["selector"] == f"{names.LABEL_CONSUMER}=scaled"
    assert len(operator_namespace.list_all("Pod", f"?labelSelector={scale['status']['selector']}")) == 3


def test_a_suspended_streamconsumer_has_no_pods_and_resumes_with_the_same_number(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("paused", replicas=2))
    wait_for_children(operator_namespace, "paused", "ServiceAccount", "Deployment", "PodDisruptionBudget")
    operator_namespace.edit("paused", suspend=True)

    def suspended() -> None:
        conditions = operator_namespace.conditions("paused")
        own = {kind: each for kind, each in conditions.items() if kind not in STREAM_CONDITIONS}
        assert {kind: (each["status"], each["reason"]) for kind, each in own.items()} == {
            "Ready": ("True", "Suspended"),
            "Reconciling": ("False", "Settled"),
            "Stalled": ("False", "Settled"),
            "Suspended": ("True", "Suspended"),
        }
        assert operator_namespace.get("Deployment", "paused-consumer")["spec"]["replicas"] == 0

    eventually(suspended, TIMEOUT_SECONDS)
    operator_namespace.kubectl("wait", "--for=condition=Suspended", "stc/paused", "--timeout=1s")
    operator_namespace.edit("paused", suspend=False)
    eventually(lambda: has_replicas(operator_namespace, "paused", 2), TIMEOUT_SECONDS)
    operator_namespace.kubectl("wait", "--for=condition=Suspended=False", "stc/paused", f"--timeout={TIMEOUT_SECONDS}s")


def has_replicas(operator_namespace: Namespace, name: str, number: int) -> None:
    assert operator_namespace.get("Deployment", f"{name}-consumer")["spec"]["replicas"] == number


def test_a_rejected_child_is_reported_in_the_status(operator_namespace: Namespace) -> None:
    operator_namespace.create(
        manifest("greedy", resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}})
    )

    def reported() -> None:
        assert operator_namespace.reason("greedy") == "ChildRejected"
        ready = operator_namespace.conditions("greedy")
        assert "must be less than or equal to memory limit" in ready["Ready"]["message"]
        assert ready["Stalled"]["status"] == "True"

    eventually(reported, TIMEOUT_SECONDS)
    eventually(lambda: operator_namespace.kubectl("describe", "stc", "greedy").index("ChildRejected"), TIMEOUT_SECONDS)
    operator_namespace.edit("greedy", resources={"limits": {"memory": "2Gi"}})
    wait_for_children(operator_namespace, "greedy", "ServiceAccount", "Deployment")


def test_scaled_to_zero_is_ready(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("zero", replicas=0))

    def reported() -> None:
        assert operator_namespace.reason("zero") == "ScaledToZero"

    eventually(reported, TIMEOUT_SECONDS)
    operator_namespace.kubectl("wait", "--for=condition=Ready", "stc/zero", "--timeout=1s")


EDITS: dict[str, Manifest] = {
    "image": {"spec": {"template": {"spec": {"containers": [{"name": "processor", "image": "evil:1"}]}}}},
    "replicas": {"spec": {"replicas": 5}},
    "variable": {
        "spec": {
            "template": {
                "spec": {
                    "containers": [{"name": "processor", "env": [{"name": "STREAMCONSUMER_STREAM", "value": "x"}]}]
                }
            }
        }
    },
    "removed-variable": {
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {"name": "processor", "env": [{"name": "STREAMCONSUMER_STREAM", "$patch": "delete"}]}
                    ]
                }
            }
        }
    },
    "label": {"metadata": {"labels": {names.LABEL_CONSUMER: None}}},
    "other-label": {"metadata": {"labels": {names.LABEL_MANAGED_BY: "somebody"}}},
    "annotation": {"metadata": {"annotations": {names.ANNOTATION_APPLIED: "x"}}},
    "grace": {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}},
    "root": {"spec": {"template": {"spec": {"securityContext": {"runAsNonRoot": False}}}}},
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_manual_edit_of_the_deployment_is_reverted(operator_namespace: Namespace, edit: str) -> None:
    name = f"edit-{edit}"
    operator_namespace.create(manifest(name))
    wait_for_children(operator_namespace, name, "ServiceAccount", "Deployment")
    wait_until_settled(operator_namespace, 0.5)
    before, began = operator_namespace.get("Deployment", f"{name}-consumer"), time.monotonic()
    operator_namespace.kubectl("patch", "deployment", f"{name}-consumer", "--patch", json.dumps(EDITS[edit]))

    def repaired() -> None:
        after = operator_namespace.get("Deployment", f"{name}-consumer")
        assert after["spec"] == before["spec"]
        assert after["metadata"]["labels"] == before["metadata"]["labels"]
        reasons = [reason for reason, _ in operator_namespace.events(name)]
        assert reasons == ["Created", *(["DriftRepaired"] if edit != "annotation" else [])]

    eventually(repaired, TIMEOUT_SECONDS)
    print(f"\n{edit}: reverted after {time.monotonic() - began:.2f} s")


@pytest.mark.parametrize("kind", ["Deployment", "ServiceAccount", "ConfigMap", "PodDisruptionBudget"])
def test_a_deleted_child_is_recreated(operator_namespace: Namespace, kind: str) -> None:
    name = f"deleted-{kind.lower()}"
    operator_namespace.create(manifest(name, handler={"source": "def handle(data): ..."}, replicas=2))
    wait_for_children(operator_namespace, name, "ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget")
    wait_until_settled(operator_namespace, 0.5)
    before = operator_namespace.children(name)[kind]
    child = before["metadata"]["name"]
    operator_namespace.delete(kind, child)

    def recreated() -> None:
        assert operator_namespace.get(kind, child)["metadata"]["uid"] != before["metadata"]["uid"]

    eventually(recreated, TIMEOUT_SECONDS)


def test_additions_of_other_tools_to_the_deployment_are_kept(operator_namespace: Namespace) -> None:
    """The operator does not own a sidecar of a service mesh or an annotation of a tool."""
    operator_namespace.create(manifest("shared", env=[{"name": "EMPTY", "value": ""}]))
    wait_for_children(operator_namespace, "shared", "ServiceAccount", "Deployment")
    addition = {
        "metadata": {"annotations": {"tool.example/seen": "yes"}, "labels": {"team": "shop"}},
        "spec": {
            "minReadySeconds": 2,
            "template": {"spec": {"containers": [{"name": "proxy", "image": "proxy:1"}]}},
        },
    }
    operator_namespace.kubectl("patch", "deployment", "shared-consumer", "--patch", json.dumps(addition))
    wait_until_settled(operator_namespace)
    after = operator_namespace.get("Deployment", "shared-consumer")
    assert {each["name"] for each in after["spec"]["template"]["spec"]["containers"]} == {"processor", "proxy"}
    assert after["metadata"]["labels"]["team"] == "shop"
    assert [reason for reason, _ in operator_namespace.events("shared")] == ["Created"]


def test_several_edited_fields_are_one_change_of_the_deployment(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("changed"))
    wait_for_children(operator_namespace, "changed", "ServiceAccount", "Deployment")
    wait_until_settled(operator_namespace, 0.5)
    before = operator_namespace.get("Deployment", "changed-consumer")["metadata"]["generation"]
    operator_namespace.edit("changed", batchCount=20, drainTimeout="40s")

    def rolled() -> Manifest:
        live = operator_namespace.get("Deployment", "changed-consumer")
        assert {"name": "STREAMCONSUMER_BATCH_COUNT", "value": "20"} in container(live)["env"]
        return live

    live = eventually(rolled, TIMEOUT_SECONDS)
    assert live["metadata"]["generation"] == before + 1
    assert live["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 48
    replica_sets = operator_namespace.cluster.request(
        "GET", f"/apis/apps/v1/namespaces/{operator_namespace.name}/replicasets"
    )["items"]
    assert len([each for each in replica_sets if each["metadata"]["name"].startswith("changed-")]) == 2


def test_applying_an_unchanged_manifest_writes_nothing(operator_namespace: Namespace) -> None:
    resource = {**manifest("same"), "metadata": {"name": "same", "namespace": operator_namespace.name}}
    operator_namespace.cluster.apply(resource)
    wait_for_children(operator_namespace, "same", "ServiceAccount", "Deployment")
    before = wait_until_settled(operator_namespace)
    operator_namespace.cluster.apply(resource)
    operator_namespace.patch("StreamConsumer", "same", {"spec": {"batchCount": 10}})
    assert wait_until_settled(operator_namespace) == before


def test_labels_and_annotations_of_the_streamconsumer_change_no_child(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("marked"))
    children = wait_for_children(operator_namespace, "marked", "ServiceAccount", "Deployment")
    wait_until_settled(operator_namespace, 0.5)
    before = operator_namespace.versions()
    operator_namespace.patch(
        "StreamConsumer", "marked", {"metadata": {"annotations": {"team": "shop"}, "labels": {"a": "b"}}}
    )
    after = wait_until_settled(operator_namespace)
    assert all(after[child["metadata"]["uid"]] == before[child["metadata"]["uid"]] for child in children.values())


def test_a_deployment_of_another_owner_is_never_adopted(operator_namespace: Namespace) -> None:
    """The operator continues when the other Deployment is deleted."""
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "taken-consumer"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "taken"}},
            "template": {
                "metadata": {"labels": {"app": "taken"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    }
    operator_namespace.create(foreign)
    operator_namespace.create(manifest("taken"))

    def stalled() -> dict[str, Manifest]:
        assert operator_namespace.reason("taken") == "NameConflict"
        return operator_namespace.conditions("taken")

    conditions = eventually(stalled, TIMEOUT_SECONDS)
    assert {kind: each["status"] for kind, each in conditions.items() if kind not in STREAM_CONDITIONS} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "True",
        "Suspended": "False",
    }
    assert "Deployment" in conditions["Stalled"]["message"]
    assert "give the StreamConsumer another name" in conditions["Stalled"]["message"]
    live = operator_namespace.get("Deployment", "taken-consumer")
    assert container(live)["image"] == "web:1"
    assert "ownerReferences" not in live["metadata"]
    operator_namespace.delete("Deployment", "taken-consumer")

    def applied() -> None:
        assert container(operator_namespace.get("Deployment", "taken-consumer"))["image"] == "shop:1.4"
        assert [reason for reason, _ in operator_namespace.events("taken")] == ["NameConflict", "Created"]

    eventually(applied)


def test_deleting_a_streamconsumer_deletes_its_children(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("gone", handler={"source": "x = 1"}, replicas=2))
    wait_for_children(operator_namespace, "gone", "ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget")
    operator_namespace.kubectl("delete", "stc/gone", "--timeout=5s")

    def gone() -> None:
        assert operator_namespace.children("gone") == {}
        assert operator_namespace.list_all("Pod", f"?labelSelector={names.LABEL_CONSUMER}=gone") == []

    eventually(gone)


def test_a_recreated_streamconsumer_reports_no_drift(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("reborn"))
    first = wait_for_children(operator_namespace, "reborn", "ServiceAccount", "Deployment")["Deployment"]
    operator_namespace.delete("StreamConsumer", "reborn")
    second = operator_namespace.create(manifest("reborn"))

    def back() -> None:
        live = operator_namespace.get("Deployment", "reborn-consumer")
        assert live["metadata"]["uid"] != first["metadata"]["uid"]
        assert live["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]
        assert set(operator_namespace.children("reborn")) == {"ServiceAccount", "Deployment"}

    eventually(back)
    eventually(lambda: check_event_reasons(operator_namespace, "reborn", {"Created"}), TIMEOUT_SECONDS)
    wait_until_settled(operator_namespace, 1.5)
    check_event_reasons(operator_namespace, "reborn", {"Created"})


def test_kubectl_describe_shows_the_events(operator_namespace: Namespace) -> None:
    operator_namespace.create(manifest("described"))
    wait_for_children(operator_namespace, "described", "ServiceAccount", "Deployment")

    def reported() -> None:
        text = operator_namespace.kubectl("describe", "stc", "described")
        assert re.search(
            r"Normal\s+Created\s+\S+\s+streamconsumer-operator\s+created ServiceAccount described-consumer", text
        )

    eventually(reported, TIMEOUT_SECONDS)


def test_the_operator_exports_its_own_metrics(operator_namespace: Namespace, operator: OperatorProcess) -> None:
    wait_until_settled(operator_namespace, 0.5)
    metrics = operator.metrics()
    assert re.search(r'streamconsumer_operator_reconciles_total\{outcome="success"\} \d+', metrics)
    assert "streamconsumer_operator_queue_depth 0.0" in metrics


def test_the_other_tests_of_this_module_logged_no_unexpected_warning(operator: OperatorProcess) -> None:
    """Reverted changes, rejected children and name conflicts are the only warnings."""
    expected = {"DriftRepaired", "NameConflict", "ChildRejected"}
    assert [line for line in operator.unexpected_lines() if line.get("reason") not in expected] == []
