"""Resources past validation: an older definition let them in, or somebody took the rules away."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconsumer.model.crd import custom_resource_definition
from tests.cluster.api_server import ApiServer
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import Manifest, manifest
from tests.model.malformed_resources import malformed_manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import TIMEOUT_SECONDS, Namespace, eventually
from tests.operator.operator_process import running_operator

pytestmark = pytest.mark.cluster

MANY = 200
SOON = TIMEOUT_SECONDS


def without_rules() -> Manifest:
    """The definition, and whatever stands in spec and status is right to it. Scaling would look into the spec."""
    definition = custom_resource_definition()
    anything = {"x-kubernetes-preserve-unknown-fields": True}
    for version in definition["spec"]["versions"]:
        version["subresources"] = {"status": {}}
        version["schema"]["openAPIV3Schema"] = {
            "type": "object",
            "properties": {"spec": anything, "status": {"type": "object", **anything}},
        }
    return definition


@pytest.fixture(scope="module")
def lax() -> Iterator[Namespace]:
    """A server of its own: what it stores, the definition of the others would not read."""
    with ApiServer() as server:
        install_crd(server, without_rules())
        yield Namespace(server, "default")


def test_200_malformed_resources_do_not_affect_valid_ones(
    lax: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis = {"url": f"redis://{redis_server.host}:{redis_server.port}/0"}
    lax.create(manifest("before", redis=redis))
    items = [malformed_manifest(number, lax.name, redis=redis) for number in range(MANY)]
    everything = {"apiVersion": "v1", "kind": "List", "items": items}
    with running_operator(lax.cluster.kubeconfig, tmp_path) as operator:
        eventually(lambda: check_served(lax, "before", 1), SOON)
        lax.cluster.kubectl("create", "-f", "-", "--validate=false", input=json.dumps(everything))
        lax.create(manifest("after", redis=redis))
        lax.edit("before", replicas=2)
        eventually(lambda: check_served(lax, "before", 2), SOON)
        eventually(lambda: check_served(lax, "after", 1), SOON)
        eventually(lambda: check_judged(lax), 2 * SOON)
        assert operator.exit_code is None
        assert operator.get("livez")[0] == 200
        assert operator.metrics().count("streamconsumer_ready{") == MANY + 2
        assert operator.logged("reconcile failed; retrying") == []


def check_served(namespace: Namespace, name: str, replicas: int) -> None:
    assert namespace.get("Deployment", f"{name}-consumer")["spec"]["replicas"] == replicas
    told = namespace.conditions(name)
    assert (told["Ready"]["reason"], told["GroupReady"]["status"]) == ("PodsStarting", "True")
    assert told["Ready"]["observedGeneration"] == replicas, "each edit here is one of the replicas"


def check_judged(namespace: Namespace) -> None:
    """Each says of itself what is wrong with it, or was served."""
    found = namespace.list_all("StreamConsumer")
    assert [each["metadata"]["name"] for each in found if not each.get("status", {}).get("conditions")] == []
