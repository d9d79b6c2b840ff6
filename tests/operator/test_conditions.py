"""The conditions, from the status of a pod to `kubectl wait`.

The operator and the API server are real. The test writes the statuses of the Deployment and the pods, because no
controller and no kubelet runs.
"""

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
    """A namespace with an operator and without controllers."""
    folder = tmp_path_factory.mktemp("operator")
    with fresh_namespace(api) as name, running_operator(api.kubeconfig, folder, watch_namespaces=name):
        yield Namespace(api, name)


def create_deployed(namespace: Namespace, name: str, **spec: Any) -> Manifest:
    namespace.create(manifest(name, **spec))
    return eventually(lambda: namespace.get("Deployment", f"{name}-consumer"))


def report(namespace: Namespace, name: str, desired: int, ready: int, **more: Any) -> None:
    """Write the status of a Deployment as its controller would."""
    generation = namespace.get("Deployment", f"{name}-consumer")["metadata"]["generation"]
    counts = {"replicas": desired, "updatedReplicas": desired, "readyReplicas": ready, "availableReplicas": ready}
    status = {"observedGeneration": generation, **counts, **more}
    namespace.patch("Deployment", f"{name}-consumer", {"status": status}, "/status")


def pod(namespace: Namespace, name: str, **status: Any) -> str:
    """Create a pod of the Deployment with the status that a kubelet would write. Returns the name of the pod."""
    deployment = namespace.get("Deployment", f"{name}-consumer")
    template = deployment["spec"]["template"]
    pod_name = f"{name}-consumer-66c9f7d7b-x2x7k"
    metadata = {"name": pod_name, "labels": template["metadata"]["labels"]}
    namespace.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    namespace.patch("Pod", pod_name, {"status": status}, "/status")
    return pod_name


def container(state: Manifest, last: Manifest | None = None, *, ready: bool = False) -> list[Manifest]:
    fixed = {"name": "processor", "image": "shop:1.4", "imageID": "", "restartCount": 1}
    return [{**fixed, "ready": ready, "state": state, "lastState": last or {}}]


def ended(message: str) -> Manifest:
    return {"terminated": {"exitCode": 1, "reason": "Error", "message": message, "containerID": "containerd://1"}}


def wait_for_reason(namespace: Namespace, name: str, reason: str) -> dict[str, Manifest]:
    """Wait until Ready has this reason. Returns the conditions. After an edit without a controller, this takes 5 s."""

    def look() -> dict[str, Manifest]:
        assert namespace.reason(name) == reason, namespace.conditions(name)
        return namespace.conditions(name)

    return eventually(look)


def event_notes(namespace: Namespace, name: str, reason: str) -> list[str]:
    """Return the notes of the Events with this reason."""
    notes = [note for event_reason, note in namespace.events(name) if event_reason == reason]
    assert notes
    return notes


def test_kubectl_wait_returns_when_the_pods_read(operator_namespace: Namespace) -> None:
    create_deployed(operator_namespace, "awaited", replicas=2)
    wait_for_reason(operator_namespace, "awaited", "PodsStarting")
    later = threading.Timer(1, report, (operator_namespace, "awaited", 2, 2))
    later.start()
    output = operator_namespace.kubectl("wait", "--for=condition=Ready", "stc/awaited", "--timeout=10s")
    later.join()
    assert output == "streamconsumer.streamconsumer.dev/awaited condition met\n"
    conditions = wait_for_reason(operator_namespace, "awaited", "AllPodsReady")
    assert conditions["Ready"]["message"] == "2 pods read stream 'orders' in group 'billing'."
    assert {kind: each["status"] for kind, each in conditions.items() if kind not in STREAM_CONDITIONS} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "False",
    }
    status = operator_namespace.get("StreamConsumer", "awaited")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)


def test_kubectl_wait_does_not_return_while_pods_start(operator_namespace: Namespace) -> None:
    create_deployed(operator_namespace, "slow")
    report(operator_namespace, "slow", 1, 0)
    with pytest.raises(KubectlError, match="timed out"):
        operator_namespace.kubectl("wait", "--for=condition=Ready", "stc/slow", "--timeout=1s")


def test_a_handler_that_cannot_be_imported_stalls_the_streamconsumer(operator_namespace: Namespace) -> None:
    create_deployed(operator_namespace, "unusable")
    report(operator_namespace, "unusable", 1, 0)
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
    last = ended("HandlerUnusable: shop.orders: no module named 'shop'")
    name = pod(operator_namespace, "unusable", phase="Running", containerStatuses=container(waiting, last))
    conditions = wait_for_reason(operator_namespace, "unusable", "HandlerUnusable")
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Ready"]["message"] == f"Pod {name}: shop.orders: no module named 'shop'"
    operator_namespace.kubectl("wait", "--for=condition=Stalled", "stc/unusable", "--timeout=1s")
    (event,) = eventually(lambda: event_notes(operator_namespace, "unusable", "HandlerUnusable"))
    assert event == conditions["Ready"]["message"]


def test_stalled_is_false_again_when_the_problem_is_fixed(operator_namespace: Namespace) -> None:
    create_deployed(operator_namespace, "fixed-image")
    report(operator_namespace, "fixed-image", 1, 0)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "shop:1.4"'}}
    name = pod(operator_namespace, "fixed-image", phase="Pending", containerStatuses=container(waiting))
    wait_for_reason(operator_namespace, "fixed-image", "ImageUnavailable")
    running = {"running": {"startedAt": "2026-11-24T12:00:00Z"}}
    status = {"phase": "Running", "containerStatuses": container(running, ready=True)}
    operator_namespace.patch("Pod", name, {"status": status}, "/status")
    report(operator_namespace, "fixed-image", 1, 1)
    conditions = wait_for_reason(operator_namespace, "fixed-image", "AllPodsReady")
    assert conditions["Stalled"]["status"] == "False"


def test_an_edit_is_reconciling_after_an_earlier_failure(operator_namespace: Namespace) -> None:
    """kstatus, Flux and Argo CD give up at Stalled: a fix must not be judged by the pods it replaces."""
    create_deployed(operator_namespace, "fixed")
    report(operator_namespace, "fixed", 1, 0)
    pod(
        operator_namespace,
        "fixed",
        phase="Running",
        containerStatuses=container(ended("HandlerUnusable: no module named 'shop'")),
    )
    wait_for_reason(operator_namespace, "fixed", "HandlerUnusable")
    operator_namespace.edit("fixed", image="shop:1.5")
    conditions = wait_for_reason(operator_namespace, "fixed", "PodsStarting")
    assert (conditions["Stalled"]["status"], conditions["Reconciling"]["status"]) == ("False", "True")


def test_pods_rejected_by_a_quota_are_reported(operator_namespace: Namespace) -> None:
    create_deployed(operator_namespace, "refused")
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": 'pods "refused-consumer-x" is forbidden: exceeded quota: compute',
        "lastTransitionTime": "2026-11-24T12:00:00Z",
        "lastUpdateTime": "2026-11-24T12:00:00Z",
    }
    report(operator_namespace, "refused", 0, 0, conditions=[condition])
    assert "exceeded quota" in wait_for_reason(operator_namespace, "refused", "PodCreationFailed")["Stalled"]["message"]


def test_the_scale_subresource_has_the_label_selector_of_the_pods(operator_namespace: Namespace) -> None:
    create_deployed(operator_namespace, "measured")
    report(operator_namespace, "measured", 1, 0)
    name = pod(operator_namespace, "measured")
    scale = eventually(lambda: scale_of(operator_namespace, "measured"))
    (matching_pod,) = operator_namespace.list_all("Pod", f"?labelSelector={scale['status']['selector']}")
    assert matching_pod["metadata"]["name"] == name
    assert scale["status"]["selector"] == f"{names.LABEL_CONSUMER}=measured"


def scale_of(namespace: Namespace, name: str) -> Manifest:
    scale: Manifest = namespace.cluster.request("GET", namespace.path("StreamConsumer", name) + "/scale")
    assert scale["status"].get("selector")
    return scale


def test_the_status_is_not_written_when_only_pod_names_change(operator_namespace: Namespace) -> None:
    create_deployed(operator_namespace, "steady")
    report(operator_namespace, "steady", 1, 1)
    wait_for_reason(operator_namespace, "steady", "AllPodsReady")
    before = operator_namespace.get("StreamConsumer", "steady")["metadata"]["resourceVersion"]
    name = pod(operator_namespace, "steady", phase="Running")
    operator_namespace.delete("Pod", name)
    report(operator_namespace, "steady", 1, 1, conditions=[])
    wait_for_reason(operator_namespace, "steady", "AllPodsReady")
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
    shown = eventually(lambda: operator_namespace.get("StreamConsumer", "effective")["status"]["effective"])
    assert shown == {
        "image": OperatorSettings().processor_image,
        "imagePullPolicy": "IfNotPresent",
        "telemetryEndpoint": "http://collector:4318",
    }
    operator_namespace.delete("StreamConsumer", "effective")
