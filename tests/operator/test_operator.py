"""The operator beside Kubernetes' own controllers, with one that all tests here share."""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.model.status import STREAM_CONDITIONS
from tests.model.examples import Manifest, manifest
from tests.operator.operators import OperatorProcess
from tests.operator.places import TIMEOUT_SECONDS, Namespace, eventually, wait_until_settled

SOON = TIMEOUT_SECONDS
"""Seconds within which the operator has answered whatever happened."""


def made(place: Namespace, name: str, *kinds: str) -> dict[str, Manifest]:
    """The children, once there are these."""

    def complete() -> dict[str, Manifest]:
        children = place.children(name)
        assert set(children) == set(kinds)
        return children

    return eventually(complete, SOON)


def check_told_only(place: Namespace, name: str, reasons: set[str]) -> None:
    assert {reason for reason, _ in place.events(name)} == reasons


def check_told(place: Namespace, name: str, event: tuple[str, str]) -> None:
    assert event in place.events(name)


def container(deployment: Manifest) -> dict[str, Any]:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_a_streamconsumer_becomes_a_service_account_and_a_deployment(served: Namespace) -> None:
    created = served.create(manifest("plain"))
    children = made(served, "plain", "ServiceAccount", "Deployment")
    for child in children.values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("StreamConsumer", "plain", created["metadata"]["uid"])
        assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, True)
        (manager,) = {each["manager"] for each in child["metadata"]["managedFields"] if "subresource" not in each}
        assert manager == "streamconsumer-operator"
    assert container(children["Deployment"])["image"] == "shop:1.4"


def test_the_status_speaks_of_the_generation_it_saw(served: Namespace) -> None:
    served.create(manifest("status"))

    def told(generation: int) -> dict[str, Manifest]:
        status = served.get("StreamConsumer", "status").get("status", {})
        assert status.get("observedGeneration") == generation
        assert {each["observedGeneration"] for each in status["conditions"]} == {generation}
        return served.conditions("status")

    first = eventually(lambda: told(1), SOON)
    assert set(first) - set(STREAM_CONDITIONS) == {"Ready", "Reconciling", "Stalled", "Suspended"}
    since = datetime.fromisoformat(first["Ready"]["lastTransitionTime"])
    assert abs((datetime.now(UTC) - since).total_seconds()) < 120
    served.edit("status", batchCount=20)
    second = eventually(lambda: told(2), SOON)
    assert second["Ready"]["lastTransitionTime"] == first["Ready"]["lastTransitionTime"]


def test_pods_that_fit_nowhere_are_told_in_the_schedulers_words(served: Namespace) -> None:
    served.create(manifest("nowhere"))

    def told() -> Manifest:
        assert served.reason("nowhere") == "Unschedulable"
        return served.conditions("nowhere")["Ready"]

    assert "no nodes available" in eventually(told, SOON)["message"]


def test_a_source_is_carried_by_a_config_map_until_the_handler_changes(served: Namespace) -> None:
    served.create(manifest("source", handler={"source": "def handle(data): ..."}))
    children = made(served, "source", "ServiceAccount", "ConfigMap", "Deployment")
    assert children["ConfigMap"]["data"] == {"handler_source.py": "def handle(data): ..."}
    name = children["ConfigMap"]["metadata"]["name"]
    served.edit("source", handler={"source": None, "python": "shop.orders:handle"})
    made(served, "source", "ServiceAccount", "Deployment")
    pruned = ("Pruned", f"deleted ConfigMap {name}, which is no longer needed")
    eventually(lambda: check_told(served, "source", pruned), SOON)


def test_editing_the_source_rolls_the_pods(served: Namespace) -> None:
    served.create(manifest("rolled", handler={"source": "def handle(data): ..."}))
    children = made(served, "rolled", "ServiceAccount", "ConfigMap", "Deployment")
    old, before = children["ConfigMap"]["metadata"]["name"], children["Deployment"]["spec"]["template"]
    served.edit("rolled", handler={"source": "def handle(data): print(data)"})

    def rolled() -> None:
        after = made(served, "rolled", "ServiceAccount", "ConfigMap", "Deployment")
        assert "print" in after["ConfigMap"]["data"]["handler_source.py"]
        assert after["ConfigMap"]["metadata"]["name"] != old, "or a kubelet may give new pods the old text"
        assert after["Deployment"]["spec"]["template"] != before

    eventually(rolled, SOON)


def test_the_second_pod_brings_a_disruption_budget_and_takes_it_along(served: Namespace) -> None:
    served.create(manifest("pair"))
    made(served, "pair", "ServiceAccount", "Deployment")
    served.kubectl("scale", "stc/pair", "--replicas=2")
    children = made(served, "pair", "ServiceAccount", "Deployment", "PodDisruptionBudget")
    assert children["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    served.kubectl("scale", "stc/pair", "--replicas=1")
    made(served, "pair", "ServiceAccount", "Deployment")


def test_kubectl_scale_reaches_the_deployment_and_its_pods(served: Namespace) -> None:
    served.create(manifest("scaled"))
    before = made(served, "scaled", "ServiceAccount", "Deployment")["Deployment"]
    served.kubectl("scale", "stc/scaled", "--replicas=3")

    def scaled() -> Manifest:
        assert served.get("StreamConsumer", "scaled")["status"]["replicas"] == 3
        return served.get("Deployment", "scaled-consumer")

    after = eventually(scaled, SOON)
    assert after["spec"]["replicas"] == 3
    assert after["spec"]["template"] == before["spec"]["template"]
    scale = served.cluster.request("GET", served.path("StreamConsumer", "scaled") + "/scale")
    assert scale["status"]["selector"] == f"{names.LABEL_CONSUMER}=scaled"
    assert len(served.list_all("Pod", f"?labelSelector={scale['status']['selector']}")) == 3


def test_a_suspended_one_has_no_pods_and_comes_back_with_as_many(served: Namespace) -> None:
    served.create(manifest("paused", replicas=2))
    made(served, "paused", "ServiceAccount", "Deployment", "PodDisruptionBudget")
    served.edit("paused", suspend=True)

    def suspended() -> None:
        found = served.conditions("paused")
        ours = {kind: each for kind, each in found.items() if kind not in STREAM_CONDITIONS}
        assert {kind: (each["status"], each["reason"]) for kind, each in ours.items()} == {
            "Ready": ("True", "Suspended"),
            "Reconciling": ("False", "Settled"),
            "Stalled": ("False", "Settled"),
            "Suspended": ("True", "Suspended"),
        }
        assert served.get("Deployment", "paused-consumer")["spec"]["replicas"] == 0

    eventually(suspended, SOON)
    served.kubectl("wait", "--for=condition=Suspended", "stc/paused", "--timeout=1s")
    served.edit("paused", suspend=False)
    eventually(lambda: has_replicas(served, "paused", 2), SOON)
    served.kubectl("wait", "--for=condition=Suspended=False", "stc/paused", f"--timeout={SOON}s")


def has_replicas(served: Namespace, name: str, number: int) -> None:
    assert served.get("Deployment", f"{name}-consumer")["spec"]["replicas"] == number


def test_a_child_that_the_api_server_refuses_is_told_on_the_resource(served: Namespace) -> None:
    served.create(manifest("greedy", resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}))

    def told() -> None:
        assert served.reason("greedy") == "ChildRejected"
        ready = served.conditions("greedy")
        assert "must be less than or equal to memory limit" in ready["Ready"]["message"]
        assert ready["Stalled"]["status"] == "True"

    eventually(told, SOON)
    eventually(lambda: served.kubectl("describe", "stc", "greedy").index("ChildRejected"), SOON)
    served.edit("greedy", resources={"limits": {"memory": "2Gi"}})
    made(served, "greedy", "ServiceAccount", "Deployment")


def test_scaled_to_zero_is_ready(served: Namespace) -> None:
    served.create(manifest("zero", replicas=0))

    def told() -> None:
        assert served.reason("zero") == "ScaledToZero"

    eventually(told, SOON)
    served.kubectl("wait", "--for=condition=Ready", "stc/zero", "--timeout=1s")


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
def test_a_hand_edit_of_the_deployment_is_put_right(served: Namespace, edit: str) -> None:
    name = f"edit-{edit}"
    served.create(manifest(name))
    made(served, name, "ServiceAccount", "Deployment")
    wait_until_settled(served, 0.5)
    before, began = served.get("Deployment", f"{name}-consumer"), time.monotonic()
    served.kubectl("patch", "deployment", f"{name}-consumer", "--patch", json.dumps(EDITS[edit]))

    def repaired() -> None:
        after = served.get("Deployment", f"{name}-consumer")
        assert after["spec"] == before["spec"]
        assert after["metadata"]["labels"] == before["metadata"]["labels"]
        reasons = [reason for reason, _ in served.events(name)]
        assert reasons == ["Created", *(["DriftRepaired"] if edit != "annotation" else [])]

    eventually(repaired, SOON)
    print(f"\n{edit}: put right after {time.monotonic() - began:.2f} s")


@pytest.mark.parametrize("kind", ["Deployment", "ServiceAccount", "ConfigMap", "PodDisruptionBudget"])
def test_a_child_that_is_deleted_is_made_again(served: Namespace, kind: str) -> None:
    name = f"deleted-{kind.lower()}"
    served.create(manifest(name, handler={"source": "def handle(data): ..."}, replicas=2))
    made(served, name, "ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget")
    wait_until_settled(served, 0.5)
    before = served.children(name)[kind]
    child = before["metadata"]["name"]
    served.delete(kind, child)

    def made_again() -> None:
        assert served.get(kind, child)["metadata"]["uid"] != before["metadata"]["uid"]

    eventually(made_again, SOON)


def test_what_others_add_to_the_deployment_stays(served: Namespace) -> None:
    """A sidecar that a service mesh injects, an annotation of a tool: not ours, not our business."""
    served.create(manifest("shared", env=[{"name": "EMPTY", "value": ""}]))
    made(served, "shared", "ServiceAccount", "Deployment")
    addition = {
        "metadata": {"annotations": {"tool.example/seen": "yes"}, "labels": {"team": "shop"}},
        "spec": {
            "minReadySeconds": 2,
            "template": {"spec": {"containers": [{"name": "proxy", "image": "proxy:1"}]}},
        },
    }
    served.kubectl("patch", "deployment", "shared-consumer", "--patch", json.dumps(addition))
    wait_until_settled(served)
    after = served.get("Deployment", "shared-consumer")
    assert {each["name"] for each in after["spec"]["template"]["spec"]["containers"]} == {"processor", "proxy"}
    assert after["metadata"]["labels"]["team"] == "shop"
    assert [reason for reason, _ in served.events("shared")] == ["Created"]


def test_a_change_of_configuration_is_one_change_of_the_deployment(served: Namespace) -> None:
    served.create(manifest("changed"))
    made(served, "changed", "ServiceAccount", "Deployment")
    wait_until_settled(served, 0.5)
    before = served.get("Deployment", "changed-consumer")["metadata"]["generation"]
    served.edit("changed", batchCount=20, drainTimeout="40s")

    def rolled() -> Manifest:
        live = served.get("Deployment", "changed-consumer")
        assert {"name": "STREAMCONSUMER_BATCH_COUNT", "value": "20"} in container(live)["env"]
        return live

    live = eventually(rolled, SOON)
    assert live["metadata"]["generation"] == before + 1
    assert live["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 48
    replica_sets = served.cluster.request("GET", f"/apis/apps/v1/namespaces/{served.name}/replicasets")["items"]
    assert len([each for each in replica_sets if each["metadata"]["name"].startswith("changed-")]) == 2


def test_applying_the_same_again_writes_nothing(served: Namespace) -> None:
    given = {**manifest("same"), "metadata": {"name": "same", "namespace": served.name}}
    served.cluster.apply(given)
    made(served, "same", "ServiceAccount", "Deployment")
    before = wait_until_settled(served)
    served.cluster.apply(given)
    served.patch("StreamConsumer", "same", {"spec": {"batchCount": 10}})
    assert wait_until_settled(served) == before


def test_a_mark_on_the_streamconsumer_touches_no_child(served: Namespace) -> None:
    served.create(manifest("marked"))
    children = made(served, "marked", "ServiceAccount", "Deployment")
    wait_until_settled(served, 0.5)
    before = served.versions()
    served.patch("StreamConsumer", "marked", {"metadata": {"annotations": {"team": "shop"}, "labels": {"a": "b"}}})
    after = wait_until_settled(served)
    assert all(after[child["metadata"]["uid"]] == before[child["metadata"]["uid"]] for child in children.values())


def test_a_deployment_of_somebody_else_is_never_adopted(served: Namespace) -> None:
    """And once it is gone, the work goes on by itself."""
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
    served.create(foreign)
    served.create(manifest("taken"))

    def stalled() -> dict[str, Manifest]:
        assert served.reason("taken") == "NameConflict"
        return served.conditions("taken")

    found = eventually(stalled, SOON)
    assert {kind: each["status"] for kind, each in found.items() if kind not in STREAM_CONDITIONS} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "True",
        "Suspended": "False",
    }
    assert "Deployment" in found["Stalled"]["message"]
    assert "delete or rename it" in found["Stalled"]["message"]
    live = served.get("Deployment", "taken-consumer")
    assert container(live)["image"] == "web:1"
    assert "ownerReferences" not in live["metadata"]
    served.delete("Deployment", "taken-consumer")

    def ours() -> None:
        assert container(served.get("Deployment", "taken-consumer"))["image"] == "shop:1.4"
        assert [reason for reason, _ in served.events("taken")] == ["NameConflict", "Created"]

    eventually(ours)


def test_deleting_a_streamconsumer_takes_its_children_along(served: Namespace) -> None:
    served.create(manifest("gone", handler={"source": "x = 1"}, replicas=2))
    made(served, "gone", "ServiceAccount", "ConfigMap", "Deployment", "PodDisruptionBudget")
    served.kubectl("delete", "stc/gone", "--timeout=5s")

    def gone() -> None:
        assert served.children("gone") == {}
        assert served.list_all("Pod", f"?labelSelector={names.LABEL_CONSUMER}=gone") == []

    eventually(gone)


def test_deleted_and_applied_in_one_breath_it_comes_back_without_alarm(served: Namespace) -> None:
    served.create(manifest("reborn"))
    first = made(served, "reborn", "ServiceAccount", "Deployment")["Deployment"]
    served.delete("StreamConsumer", "reborn")
    second = served.create(manifest("reborn"))

    def back() -> None:
        live = served.get("Deployment", "reborn-consumer")
        assert live["metadata"]["uid"] != first["metadata"]["uid"]
        assert live["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]
        assert set(served.children("reborn")) == {"ServiceAccount", "Deployment"}

    eventually(back)
    eventually(lambda: check_told_only(served, "reborn", {"Created"}), SOON)
    wait_until_settled(served, 1.5)
    check_told_only(served, "reborn", {"Created"})


def test_what_happened_is_seen_in_describe(served: Namespace) -> None:
    served.create(manifest("described"))
    made(served, "described", "ServiceAccount", "Deployment")

    def told() -> None:
        text = served.kubectl("describe", "stc", "described")
        assert re.search(r"Normal\s+Created\s+\S+\s+streamconsumer-operator\s+ServiceAccount described-consumer", text)

    eventually(told, SOON)


def test_the_operator_tells_how_it_fares(served: Namespace, operator: OperatorProcess) -> None:
    wait_until_settled(served, 0.5)
    told = operator.metrics()
    assert re.search(r'streamconsumer_operator_reconciles_total\{outcome="success"\} \d+', told)
    assert "streamconsumer_operator_queue_depth 0.0" in told


def test_nothing_alarming_was_logged_by_all_of_this(operator: OperatorProcess) -> None:
    """What is put right, refused, or has its name taken, is told once as a warning; nothing else is."""
    expected = {"DriftRepaired", "NameConflict", "ChildRejected"}
    assert [line for line in operator.unexpected_lines() if line.get("reason") not in expected] == []
