"""From the chart before this one to this one and back, on a real API server.

`previous/` is the chart of the last release as it was published: version 0.1.0, before there was any; and what its
operator made of StreamConsumers.
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
    """One of its own: the definition is the whole server's, and the release owns it."""
    with ControlPlane() as server:
        server.kubectl("create", "namespace", NAMESPACE)
        yield server


@pytest.mark.parametrize("version", [3, 4])
def test_an_upgrade_and_its_rollback_keep_every_stream_consumer_as_it_is(server: ApiServer, version: int) -> None:
    place, release = Namespace(server, NAMESPACE), ("streamconsumer", "--namespace", NAMESPACE)
    server.helm("install", *release[:1], str(PREVIOUS), *release[1:], version=version)
    (before,) = of_kind("CustomResourceDefinition", Helm("helm").template(chart=PREVIOUS))
    eventually(lambda: served(server, before))
    written = eventually(lambda: create(place, manifest(replicas=3, delivery={"maxDeliveries": 5})))

    server.helm("upgrade", *release[:1], str(CHART), *release[1:], version=version)
    eventually(lambda: served(server, custom_resource_definition()))
    upgraded = place.get("StreamConsumer", "orders")
    assert upgraded["metadata"] == written["metadata"]
    assert upgraded["spec"].items() >= written["spec"].items(), "new fields come with their defaults, and nothing else"

    server.helm("rollback", *release[:1], "1", *release[1:], version=version)
    eventually(lambda: served(server, before))
    assert place.get("StreamConsumer", "orders") == written

    server.helm("uninstall", *release, version=version)
    assert place.get("StreamConsumer", "orders") == written
    server.kubectl("delete", "crd", DEFINITION)


@pytest.mark.parametrize("case", previous_pods.CASES)
def test_the_operator_makes_the_same_pods_as_the_one_before_it(case: str) -> None:
    """So its upgrade restarts none. Where that cannot be, see `previous_pods`."""
    written, applied = previous_pods.previous_manifests(case)
    (then,) = of_kind("Deployment", applied)
    (now,) = of_kind("Deployment", desired(StreamConsumer.parse(written), SETTINGS))
    for field in ("selector", "template"):
        assert now["spec"][field] == then["spec"][field], f"an upgrade restarts the pods of golden/{case}"


def test_an_upgrade_of_chart_and_operator_restarts_no_pod(server: ApiServer, tmp_path: Path) -> None:
    """Installed is the chart before; what its operator applied stands as it applied it."""
    place, release = Namespace(server, "shop"), ("streamconsumer", "--namespace", NAMESPACE)
    server.kubectl("create", "namespace", place.name)
    server.helm("install", *release[:1], str(PREVIOUS), *release[1:])
    (before,) = of_kind("CustomResourceDefinition", Helm("helm").template(chart=PREVIOUS))
    eventually(lambda: served(server, before))
    written, applied = previous_pods.previous_manifests("source")
    apply_as_operator(place, eventually(lambda: create(place, written)), applied)
    life = eventually(lambda: lives(place))

    server.helm("upgrade", *release[:1], str(CHART), *release[1:])
    eventually(lambda: served(server, custom_resource_definition()))
    told = {"processor_image": SETTINGS.processor_image, "telemetry_endpoint": SETTINGS.telemetry_endpoint}
    with running_operator(server.kubeconfig, tmp_path, watch_namespaces=place.name, **told):
        eventually(lambda: place.conditions("orders")["Ready"])
        assert lives(place) == life
        # It does act: the same edit that changes pods does so.
        place.edit("orders", batchCount=20)
        eventually(lambda: changed(place, life))
    server.helm("uninstall", *release)
    server.kubectl("delete", "crd", DEFINITION)


def apply_as_operator(place: Namespace, owner: Manifest, applied: list[Manifest]) -> None:
    """What stands in `previous/pods`, with this owner."""
    for each in applied:
        references = [{**each["metadata"]["ownerReferences"][0], "uid": owner["metadata"]["uid"]}]
        metadata = {**each["metadata"], "ownerReferences": references}
        del metadata["annotations"]  # the hash: it was of a manifest with this owner
        how = ("apply", "--server-side", f"--field-manager={names.FIELD_MANAGER}", "-f", "-")
        place.cluster.kubectl(*how, input=json.dumps(with_applied_hash({**each, "metadata": metadata})))


def lives(place: Namespace) -> Any:
    """The Deployment's template in number, and its pods."""
    live = place.get("Deployment", "orders-consumer")
    pods = place.list_all("Pod", f"?labelSelector={names.LABEL_CONSUMER}=orders")
    assert len(pods) == live["spec"]["replicas"]
    return live["metadata"]["generation"], {pod["metadata"]["uid"] for pod in pods}


def changed(place: Namespace, life: Any) -> None:
    assert place.get("Deployment", "orders-consumer")["metadata"]["generation"] > life[0]


def create(place: Namespace, written: Manifest) -> Manifest:
    try:
        place.create(written)
    except Exception as failure:  # noqa: BLE001 - whatever it is, the definition is not yet served
        raise AssertionError(str(failure)) from None
    return place.get("StreamConsumer", "orders")


def served(server: ApiServer, definition: Manifest) -> None:
    """The definition's fields are in force."""
    live = server.get("crd", DEFINITION)
    assert properties(live) == properties(definition)
    conditions = {each["type"]: each["status"] for each in live["status"]["conditions"]}
    assert conditions["Established"] == "True"


def properties(definition: Manifest) -> Manifest:
    (version,) = definition["spec"]["versions"]
    found: Manifest = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found
