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
def served(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A namespace with an operator, which nothing else moves."""
    folder = tmp_path_factory.mktemp("operator")
    with fresh_namespace(api) as name, running_operator(api.kubeconfig, folder, watch_namespaces=name):
        yield Namespace(api, name)


def deployed(place: Namespace, name: str, **spec: Any) -> Manifest:
    place.create(manifest(name, **spec))
    return eventually(lambda: place.get("Deployment", f"{name}-consumer"))


def report(place: Namespace, name: str, wanted: int, ready: int, **more: Any) -> None:
    """What the Deployment controller would say."""
    generation = place.get("Deployment", f"{name}-consumer")["metadata"]["generation"]
    counts = {"replicas": wanted, "updatedReplicas": wanted, "readyReplicas": ready, "availableReplicas": ready}
    status = {"observedGeneration": generation, **counts, **more}
    place.patch("Deployment", f"{name}-consumer", {"status": status}, "/status")


def pod(place: Namespace, name: str, **status: Any) -> str:
    """A pod of the Deployment, and what its kubelet would say. Its name."""
    deployment = place.get("Deployment", f"{name}-consumer")
    template = deployment["spec"]["template"]
    called = f"{name}-consumer-66c9f7d7b-x2x7k"
    metadata = {"name": called, "labels": template["metadata"]["labels"]}
    place.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    place.patch("Pod", called, {"status": status}, "/status")
    return called


def container(state: Manifest, last: Manifest | None = None, *, ready: bool = False) -> list[Manifest]:
    fixed = {"name": "processor", "image": "shop:1.4", "imageID": "", "restartCount": 1}
    return [{**fixed, "ready": ready, "state": state, "lastState": last or {}}]


def ended(message: str) -> Manifest:
    return {"terminated": {"exitCode": 1, "reason": "Error", "message": message, "containerID": "containerd://1"}}


def told(place: Namespace, name: str, reason: str) -> dict[str, Manifest]:
    """The conditions. After an edit that no controller answers, they take five seconds."""

    def look() -> dict[str, Manifest]:
        assert place.reason(name) == reason, place.conditions(name)
        return place.conditions(name)

    return eventually(look)


def told_of(place: Namespace, name: str, reason: str) -> list[str]:
    """The notes of the events with this reason."""
    notes = [note for found, note in place.events(name) if found == reason]
    assert notes
    return notes


def test_kubectl_wait_returns_when_the_pods_read(served: Namespace) -> None:
    deployed(served, "awaited", replicas=2)
    told(served, "awaited", "PodsStarting")
    later = threading.Timer(1, report, (served, "awaited", 2, 2))
    later.start()
    said = served.kubectl("wait", "--for=condition=Ready", "stc/awaited", "--timeout=10s")
    later.join()
    assert said == "streamconsumer.streamconsumer.dev/awaited condition met\n"
    found = told(served, "awaited", "AllPodsReady")
    assert found["Ready"]["message"] == "2 pods read stream 'orders' in group 'billing'."
    assert {kind: each["status"] for kind, each in found.items() if kind not in STREAM_CONDITIONS} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "False",
    }
    status = served.get("StreamConsumer", "awaited")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)


def test_kubectl_wait_goes_on_while_pods_start(served: Namespace) -> None:
    deployed(served, "slow")
    report(served, "slow", 1, 0)
    with pytest.raises(KubectlError, match="timed out"):
        served.kubectl("wait", "--for=condition=Ready", "stc/slow", "--timeout=1s")


def test_a_handler_that_cannot_be_imported_stalls(served: Namespace) -> None:
    deployed(served, "unusable")
    report(served, "unusable", 1, 0)
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
    last = ended("HandlerUnusable: shop.orders: no module named 'shop'")
    name = pod(served, "unusable", phase="Running", containerStatuses=container(waiting, last))
    found = told(served, "unusable", "HandlerUnusable")
    assert found["Stalled"]["status"] == "True"
    assert found["Ready"]["message"] == f"Pod {name}: shop.orders: no module named 'shop'"
    served.kubectl("wait", "--for=condition=Stalled", "stc/unusable", "--timeout=1s")
    (event,) = eventually(lambda: told_of(served, "unusable", "HandlerUnusable"))
    assert event == found["Ready"]["message"]


def test_a_trouble_that_goes_away_is_forgotten(served: Namespace) -> None:
    deployed(served, "mended")
    report(served, "mended", 1, 0)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "shop:1.4"'}}
    name = pod(served, "mended", phase="Pending", containerStatuses=container(waiting))
    told(served, "mended", "ImageUnavailable")
    running = {"running": {"startedAt": "2026-11-24T12:00:00Z"}}
    status = {"phase": "Running", "containerStatuses": container(running, ready=True)}
    served.patch("Pod", name, {"status": status}, "/status")
    report(served, "mended", 1, 1)
    found = told(served, "mended", "AllPodsReady")
    assert found["Stalled"]["status"] == "False"


def test_an_edit_is_told_as_work_in_progress_whatever_went_before(served: Namespace) -> None:
    """kstatus, Flux and Argo CD give up at Stalled: a fix must not be judged by the pods it replaces."""
    deployed(served, "fixed")
    report(served, "fixed", 1, 0)
    pod(served, "fixed", phase="Running", containerStatuses=container(ended("HandlerUnusable: no module named 'shop'")))
    told(served, "fixed", "HandlerUnusable")
    served.edit("fixed", image="shop:1.5")
    found = told(served, "fixed", "PodsStarting")
    assert (found["Stalled"]["status"], found["Reconciling"]["status"]) == ("False", "True")


def test_pods_that_a_quota_refuses_are_told(served: Namespace) -> None:
    deployed(served, "refused")
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": 'pods "refused-consumer-x" is forbidden: exceeded quota: compute',
        "lastTransitionTime": "2026-11-24T12:00:00Z",
        "lastUpdateTime": "2026-11-24T12:00:00Z",
    }
    report(served, "refused", 0, 0, conditions=[condition])
    assert "exceeded quota" in told(served, "refused", "PodCreationFailed")["Stalled"]["message"]


def test_the_scale_says_by_what_label_an_autoscaler_finds_the_pods(served: Namespace) -> None:
    deployed(served, "measured")
    report(served, "measured", 1, 0)
    name = pod(served, "measured")
    scale = eventually(lambda: scale_of(served, "measured"))
    (found,) = served.list_all("Pod", f"?labelSelector={scale['status']['selector']}")
    assert found["metadata"]["name"] == name
    assert scale["status"]["selector"] == f"{names.LABEL_CONSUMER}=measured"


def scale_of(place: Namespace, name: str) -> Manifest:
    found: Manifest = place.cluster.request("GET", place.path("StreamConsumer", name) + "/scale")
    assert found["status"].get("selector")
    return found


def test_the_status_is_not_written_when_only_the_pods_names_change(served: Namespace) -> None:
    deployed(served, "steady")
    report(served, "steady", 1, 1)
    told(served, "steady", "AllPodsReady")
    before = served.get("StreamConsumer", "steady")["metadata"]["resourceVersion"]
    name = pod(served, "steady", phase="Running")
    served.delete("Pod", name)
    report(served, "steady", 1, 1, conditions=[])
    told(served, "steady", "AllPodsReady")
    assert served.get("StreamConsumer", "steady")["metadata"]["resourceVersion"] == before


def test_the_status_tells_what_the_installation_decides(served: Namespace) -> None:
    served.create(
        manifest(
            "effective",
            image=None,
            handler={"source": "def handle(data): ..."},
            telemetry={"endpoint": "http://collector:4318"},
        )
    )
    eventually(lambda: report(served, "effective", 1, 0))
    found = eventually(lambda: served.get("StreamConsumer", "effective")["status"]["effective"])
    assert found == {
        "image": OperatorSettings().processor_image,
        "imagePullPolicy": "IfNotPresent",
        "telemetryEndpoint": "http://collector:4318",
    }
    served.delete("StreamConsumer", "effective")
