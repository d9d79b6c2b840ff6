"""Upgrade from the previous chart and rollback, on a real API server.

`previous/` contains the chart of the last release and the manifests of its operator. Before the first release, it
contains version 0.1.0.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests import desired
from streamconsumer.operator.manifests.metadata import with_applied_hash
from tests.charts import previous_pods
from tests.charts.rendering import CHART, NAMESPACE, Helm, Manifest, of_kind
from tests.cluster.api_server import ApiServer
from tests.cluster.control_plane import ControlPlane
from tests.model.examples import manifest
from tests.operator.golden import SETTINGS
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import running_operator

PREVIOUS = Path(__file__).parent / "previous" / CHART.name
pytestmark = pytest.mark.cluster

DEFINITION = f"{names.PLURAL}.{names.GROUP}"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """Separate server, because the release owns the CRD, which is cluster-scoped."""
    with ControlPlane() as server:
        server.kubectl("create", "namespace", NAMESPACE)
        yield server


@pytest.mark.parametrize("version", [3, 4])
def test_upgrade_and_rollback_keep_each_stream_consumer(server: ApiServer, version: int) -> None:
    namespace, release = Namespace(server, NAMESPACE), ("streamconsumer", "--namespace", NAMESPACE)
    server.helm("install", *release[:1], str(PREVIOUS), *release[1:], version=version)
    (previous,) = of_kind("CustomResourceDefinition", Helm("helm").template(chart=PREVIOUS))
    eventually(lambda: check_served(server, previous))
    written = eventually(lambda: create(namespace, manifest(replicas=3, delivery={"maxDeliveries": 5})))

    server.helm("upgrade", *release[:1], str(CHART), *release[1:], version=version)
    eventually(lambda: check_served(server, custom_resource_definition()))
    upgraded = namespace.get("StreamConsumer", "orders")
    assert upgraded["metadata"] == written["metadata"]
    assert upgraded["spec"].items() >= written["spec"].items(), "only new fields with their defaults are added"

    server.helm("rollback", *release[:1], "1", *release[1:], version=version)
    eventually(lambda: check_served(server, previous))
    assert namespace.get("StreamConsumer", "orders") == written

    server.helm("uninstall", *release, version=version)
    assert namespace.get("StreamConsumer", "orders") == written
    server.kubectl("delete", "crd", DEFINITION)


@pytest.mark.parametrize("version", [3, 4])
def test_upgrade_that_keeps_values_uses_the_defaults_of_new_values(server: ApiServer, version: int) -> None:
    release = ("streamconsumer", "--namespace", NAMESPACE)
    server.helm("install", *release[:1], str(PREVIOUS), *release[1:], "--set", "logLevel=DEBUG", version=version)
    server.helm("upgrade", *release[:1], str(CHART), *release[1:], "--reset-then-reuse-values", version=version)
    deployment = Namespace(server, NAMESPACE).get("Deployment", "streamconsumer-operator")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "STREAMCONSUMER_OPERATOR_LOG_LEVEL", "value": "DEBUG"} in container["env"]
    assert server.get("validatingadmissionpolicy", "streamconsumer-operator")
    server.helm("uninstall", *release, version=version)
    server.kubectl("delete", "crd", DEFINITION)


@pytest.mark.parametrize("case", previous_pods.CASES)
def test_operator_builds_the_same_pod_template_as_the_previous_one(case: str) -> None:
    """An upgrade therefore restarts no pod. For unavoidable changes, see `previous_pods`."""
    written, applied = previous_pods.previous_manifests(case)
    (previous,) = of_kind("Deployment", applied)
    (current,) = of_kind("Deployment", desired(StreamConsumer.parse(written), SETTINGS))
    for field in ("selector", "template"):
        assert current["spec"][field] == previous["spec"][field], f"an upgrade restarts the pods of golden/{case}"


def test_upgrade_of_chart_and_operator_restarts_no_pod(server: ApiServer, tmp_path: Path) -> None:
    """The previous chart is installed, and the manifests of its operator are applied."""
    namespace, release = Namespace(server, "shop"), ("streamconsumer", "--namespace", NAMESPACE)
    server.kubectl("create", "namespace", namespace.name)
    server.helm("install", *release[:1], str(PREVIOUS), *release[1:])
    (previous,) = of_kind("CustomResourceDefinition", Helm("helm").template(chart=PREVIOUS))
    eventually(lambda: check_served(server, previous))
    written, applied = previous_pods.previous_manifests("source")
    apply_as_operator(namespace, eventually(lambda: create(namespace, written)), applied)
    state = eventually(lambda: pod_state(namespace))

    server.helm("upgrade", *release[:1], str(CHART), *release[1:])
    eventually(lambda: check_served(server, custom_resource_definition()))
    settings = {"processor_image": SETTINGS.processor_image, "telemetry_endpoint": SETTINGS.telemetry_endpoint}
    with running_operator(server.kubeconfig, tmp_path, watch_namespaces=namespace.name, **settings):
        eventually(lambda: namespace.conditions("orders")["Ready"])
        assert pod_state(namespace) == state
        # Proof that the operator is active: an edit of the pod template changes the Deployment.
        namespace.edit("orders", batchCount=20)
        eventually(lambda: check_changed(namespace, state))
    server.helm("uninstall", *release)
    server.kubectl("delete", "crd", DEFINITION)


def apply_as_operator(namespace: Namespace, owner: Manifest, applied: list[Manifest]) -> None:
    """Apply the manifests of `previous/pods` with this owner."""
    for child in applied:
        references = [{**child["metadata"]["ownerReferences"][0], "uid": owner["metadata"]["uid"]}]
        metadata = {**child["metadata"], "ownerReferences": references}
        del metadata["annotations"]  # the applied hash, which depends on the owner
        command = ("apply", "--server-side", f"--field-manager={names.FIELD_MANAGER}", "-f", "-")
        namespace.cluster.kubectl(*command, input=json.dumps(with_applied_hash({**child, "metadata": metadata})))


def pod_state(namespace: Namespace) -> Any:
    """Return the generation of the Deployment and the uids of its pods."""
    deployment = namespace.get("Deployment", "orders-consumer")
    pods = namespace.list_all("Pod", f"?labelSelector={names.LABEL_CONSUMER}=orders")
    assert len(pods) == deployment["spec"]["replicas"]
    return deployment["metadata"]["generation"], {pod["metadata"]["uid"] for pod in pods}


def check_changed(namespace: Namespace, state: Any) -> None:
    assert namespace.get("Deployment", "orders-consumer")["metadata"]["generation"] > state[0]


def create(namespace: Namespace, written: Manifest) -> Manifest:
    try:
        namespace.create(written)
    except Exception as failure:  # noqa: BLE001 - any error means that the CRD is not served yet
        raise AssertionError(str(failure)) from None
    return namespace.get("StreamConsumer", "orders")


def check_served(server: ApiServer, definition: Manifest) -> None:
    """Check that the CRD is established with these fields."""
    live = server.get("crd", DEFINITION)
    assert properties(live) == properties(definition)
    conditions = {condition["type"]: condition["status"] for condition in live["status"]["conditions"]}
    assert conditions["Established"] == "True"


def properties(definition: Manifest) -> Manifest:
    (version,) = definition["spec"]["versions"]
    spec: Manifest = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec
