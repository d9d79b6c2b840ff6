"""From a pod's end to `kubectl wait`: the operator is real, the statuses of Deployment and pods are written by hand
where no kubelet and no controller would write others."""

import threading
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.model.status import STREAM_CONDITIONS
from streamconsumer.operator.settings import OperatorSettings
from tests.cluster.api_server import ApiServer
from tests.cluster.clusters import KubectlError
from tests.cluster.namespaces import fresh_namespace
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator


@pytest.fixture(scope="module")
def operator_namespace(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A namespace with an operator, which nothing else moves."""
    folder = tmp_path_factory.mktemp("operator")
    with fresh_namespace(api) as name, running_operator(api.kubeconfig, folder, watch_namespaces=name):
        yield Namespace(api, name)


def deployed(namespace: Namespace, name: str, **spec: Any) -> Manifest:
    namespace.create(manifest(name, **spec))
    return eventually(lambda: namespace.get("Deployment", f"{name}-consumer"))


def report(namespace: Namespace, name: str, wanted: int, ready: int, **more: Any) -> None:
    """What the Deployment controller would say."""
    generation = namespace.get("Deployment", f"{name}-consumer")["metadata"]["generation"]
    counts = {"replicas": wanted, "updatedReplicas": wanted, "readyReplicas": ready, "availableReplicas": ready}
    status = {"observedGeneration": generation, **counts, **more}
    namespace.patch("Deployment", f"{name}-consumer", {"status": status}, "/status")


def pod(namespace: Namespace, name: str, **status: Any) -> str:
    """A pod of the Deployment, and what its kubelet would say. Its name."""
    deployment = namespace.get("Deployment", f"{name}-consumer")
    template = deployment["spec"]["template"]
    called = f"{name}-consumer-66c9f7d7b-x2x7k"
    metadata = {"name": called, "labels": template["metadata"]["labels"]}
    namespace.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    namespace.patch("Pod", called, {"status": status}, "/status")
    return called


def container(state: Manifest, last: Manifest | None = None, *, ready: bool = False) -> list[Manifest]:
    fixed = {"name": "processor", "image": "shop:1.4", "imageID": "", "restartCount": 1}
    return [{**fixed, "ready": ready, "state": state, "lastState": last or {}}]


def ended(message: str) -> Manifest:
    return {"terminated": {"exitCode": 1, "reason": "Error", "message": message, "containerID": "containerd://1"}}


def told(namespace: Namespace, name: str, reason: str) -> dict[str, Manifest]:
    """The conditions. After an edit that no controller answers, they take five seconds."""

    def look() -> dict[str, Manifest]:
        assert namespace.reason(name) == reason, namespace.conditions(name)
        return namespace.conditions(name)

    return eventually(look)


def told_of(namespace: Namespace, name: str, reason: str) -> list[str]:
    """The notes of the events with this reason."""
    notes = [note for found, note in namespace.events(name) if found == reason]
    assert notes
    return notes


def test_kubectl_wait_returns_when_the_pods_read(operator_namespace: Namespace) -> None:
    deployed(operator_namespace, "awaited", replicas=2)
    told(operator_namespace, "awaited", "PodsStarting")
    later = threading.Timer(1, report, (operator_namespace, "awaited", 2, 2))
    later.start()
    said = operator_namespace.kubectl("wait", "--for=condition=Ready", "stc/awaited", "--timeout=10s")
    later.join()
    assert said == "streamconsumer.streamconsumer.dev/awaited condition met\n"
    found = told(operator_namespace, "awaited", "AllPodsReady")
    assert found["Ready"]["message"] == "2 pods read stream 'orders' in group 'billing'."
    assert {kind: each["status"] for kind, each in found.items() if kind not in STREAM_CONDITIONS} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "False",
    }
    status = operator_namespace.get("StreamConsumer", "awaited")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)


def test_kubectl_wait_does_not_return_while_pods_start(operator_namespace: Namespace) -> None:
    deployed(operator_namespace, "slow")
    report(operator_namespace, "slow", 1, 0)
    with pytest.raises(KubectlError, match="timed out"):
        operator_namespace.kubectl("wait", "--for=condition=Ready", "stc/slow", "--timeout=1s")


def test_a_handler_that_cannot_be_imported_stalls_the_streamconsumer(operator_namespace: Namespace) -> None:
    deployed(operator_namespace, "unusable")
    report(operator_namespace, "unusable", 1, 0)
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
    last = ended("HandlerUnusable: shop.orders: no module named 'shop'")
    name = pod(operator_namespace, "unusable", phase="Running", containerStatuses=container(waiting, last))
    found = told(operator_namespace, "unusable", "HandlerUnusable")
    assert found["Stalled"]["status"] == "True"
    assert found["Ready"]["message"] == f"Pod {name}: shop.orders: no module named 'shop'"
    operator_namespace.kubectl("wait", "--for=condition=Stalled", "stc/unusable", "--timeout=1s")
    (event,) = eventually(lambda: told_of(operator_namespace, "unusable", "HandlerUnusable"))
    assert event == found["Ready"]["message"]


def test_stalled_is_false_again_when_the_problem_is_fixed(operator_namespace: Namespace) -> None:
    deployed(operator_namespace, "mended")
    report(operator_namespace, "mended", 1, 0)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "shop:1.4"'}}
    name = pod(operator_namespace, "mended", phase="Pending", containerStatuses=container(waiting))
    told(operator_namespace, "mended", "ImageUnavailable")
    running = {"running": {"startedAt": "2026-11-24T12:00:00Z"}}
    status = {"phase": "Running", "containerStatuses": container(running, ready=True)}
    operator_namespace.patch("Pod", name, {"status": status}, "/status")
    report(operator_namespace, "mended", 1, 1)
    found = told(operator_namespace, "mended", "AllPodsReady")
    assert found["Stalled"]["status"] == "False"


def test_an_edit_is_reconciling_after_an_earlier_failure(operator_namespace: Namespace) -> None:
    """kstatus, Flux and Argo CD give up at Stalled: a fix must not be judged by the pods it replaces."""
    deployed(operator_namespace, "fixed")
    report(operator_namespace, "fixed", 1, 0)
    pod(
        operator_namespace,
        "fixed",
        phase="Running",
        containerStatuses=container(ended("HandlerUnusable: no module named 'shop'")),
    )
    told(operator_namespace, "fixed", "HandlerUnusable")
    operator_namespace.edit("fixed", image="shop:1.5")
    found = told(operator_namespace, "fixed", "PodsStarting")
    assert (found["Stalled"]["status"], found["Reconciling"]["status"]) == ("False", "True")


def test_pods_rejected_by_a_quota_are_reported(operator_namespace: Namespace) -> None:
    deployed(operator_namespace, "refused")
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": 'pods "refused-consumer-x" is forbidden: exceeded quota: compute',
        "lastTransitionTime": "2026-11-24T12:00:00Z",
        "lastUpdateTime": "2026-11-24T12:00:00Z",
    }
    report(operator_namespace, "refused", 0, 0, conditions=[condition])
    assert "exceeded quota" in told(operator_namespace, "refused", "PodCreationFailed")["Stalled"]["message"]


def test_the_scale_subresource_has_the_label_selector_of_the_pods(operator_namespace: Namespace) -> None:
    deployed(operator_namespace, "measured")
    report(operator_namespace, "measured", 1, 0)
    name = pod(operator_namespace, "measured")
    scale = eventually(lambda: scale_of(operator_namespace, "measured"))
    (found,) = operator_namespace.list_all("Pod", f"?labelSelector={scale['status']['selector']}")
    assert found["metadata"]["name"] == name
    assert scale["status"]["selector"] == f"{names.LABEL_CONSUMER}=measured"


def scale_of(namespace: Namespace, name: str) -> Manifest:
    found: Manifest = namespace.cluster.request("GET", namespace.path("StreamConsumer", name) + "/scale")
    assert found["status"].get("selector")
    return found


def test_the_status_is_not_written_when_only_pod_names_change(operator_namespace: Namespace) -> None:
    deployed(operator_namespace, "steady")
    report(operator_namespace, "steady", 1, 1)
    told(operator_namespace, "steady", "AllPodsReady")
    before = operator_namespace.get("StreamConsumer", "steady")["metadata"]["resourceVersion"]
    name = pod(operator_namespace, "steady", phase="Running")
    operator_namespace.delete("Pod", name)
    report(operator_namespace, "steady", 1, 1, conditions=[])
    told(operator_namespace, "steady", "AllPodsReady")
    assert operator_namespace.get("StreamConsumer", "steady")["metadata"]["resourceVersion"] == before


def test_the_status_shows_the_defaults_of_the_installation(operator_namespace: Namespace) -> None:
    operator_namespace.create(
        manifest(
            "effective",
            image=None,
            handler={"source": "def handle(data): ..."},
            telemetry={"endpoint": "http://collector:4318"},
        )
    )
    eventually(lambda: report(operator_namespace, "effective", 1, 0))
    found = eventually(lambda: operator_namespace.get("StreamConsumer", "effective")["status"]["effective"])
    assert found == {
        "image": OperatorSettings().processor_image,
        "imagePullPolicy": "IfNotPresent",
        "telemetryEndpoint": "http://collector:4318",
    }
    operator_namespace.delete("StreamConsumer", "effective")
