"""From the chart before this one to this one and back, on a real API server.

`previous/` is the chart of the last release as it was published: version 0.1.0, before there was any.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from tests.charts.rendering import CHART, NAMESPACE, Helm, Manifest, of_kind
from tests.cluster.api_server import ApiServer
from tests.model.examples import manifest
from tests.operator.places import Place, eventually

PREVIOUS = Path(__file__).parent / "previous" / CHART.name
DEFINITION = f"{names.PLURAL}.{names.GROUP}"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """One of its own: the definition is the whole server's, and the release owns it."""
    with ApiServer() as server:
        server.kubectl("create", "namespace", NAMESPACE)
        yield server


@pytest.mark.parametrize("version", [3, 4])
def test_an_upgrade_and_its_rollback_keep_every_stream_consumer_as_it_is(server: ApiServer, version: int) -> None:
    place, release = Place(server, NAMESPACE), ("streamconsumer", "--namespace", NAMESPACE)
    server.helm("install", *release[:1], str(PREVIOUS), *release[1:], version=version)
    (before,) = of_kind("CustomResourceDefinition", Helm("helm").template(chart=PREVIOUS))
    eventually(lambda: served(server, before), within=20)
    written = eventually(lambda: create(place), within=20)

    server.helm("upgrade", *release[:1], str(CHART), *release[1:], version=version)
    eventually(lambda: served(server, custom_resource_definition()), within=20)
    upgraded = place.get("StreamConsumer", "orders")
    assert upgraded["metadata"] == written["metadata"]
    assert upgraded["spec"].items() >= written["spec"].items(), "new fields come with their defaults, and nothing else"

    server.helm("rollback", *release[:1], "1", *release[1:], version=version)
    eventually(lambda: served(server, before), within=20)
    assert place.get("StreamConsumer", "orders") == written

    server.helm("uninstall", *release, version=version)
    assert place.get("StreamConsumer", "orders") == written
    server.kubectl("delete", "crd", DEFINITION)


def create(place: Place) -> Manifest:
    try:
        place.create(manifest(replicas=3, delivery={"maxDeliveries": 5}))
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
