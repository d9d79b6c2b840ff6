"""Malformed resources in the API server, because an older CRD accepted them or a user removed its rules."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconsumer.model.crd import custom_resource_definition
from tests.cluster.api_server import ApiServer
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import Manifest, manifest
from tests.model.malformed_resources import malformed_manifest
from tests.model.string_fields import ATTACKS, FREE_TEXTS, string_fields, with_value
from tests.operator.conftest import install_crd
from tests.operator.namespace import TIMEOUT_SECONDS, Namespace, eventually
from tests.operator.operator_process import running_operator

pytestmark = pytest.mark.cluster

MANY = 200
SOON = TIMEOUT_SECONDS


def without_rules() -> Manifest:
    """Return a CRD that accepts any spec and status. The scale subresource is removed, because it reads the spec."""
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
def lax_namespace() -> Iterator[Namespace]:
    """A namespace on a separate API server: the CRD of the shared one could not read the stored resources."""
    with ApiServer() as server:
        install_crd(server, without_rules())
        yield Namespace(server, "default")


def test_200_malformed_resources_do_not_affect_valid_ones(
    lax_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis = {"url": f"redis://{redis_server.host}:{redis_server.port}/0"}
    lax_namespace.create(manifest("before", redis=redis))
    items = [malformed_manifest(number, lax_namespace.name, redis=redis) for number in range(MANY)]
    everything = {"apiVersion": "v1", "kind": "List", "items": items}
    with running_operator(lax_namespace.cluster.kubeconfig, tmp_path) as operator:
        eventually(lambda: check_served(lax_namespace, "before", 1), SOON)
        lax_namespace.cluster.kubectl("create", "-f", "-", "--validate=false", input=json.dumps(everything))
        lax_namespace.create(manifest("after", redis=redis))
        lax_namespace.edit("before", replicas=2)
        eventually(lambda: check_served(lax_namespace, "before", 2), SOON)
        eventually(lambda: check_served(lax_namespace, "after", 1), SOON)
        eventually(lambda: check_conditions(lax_namespace), 2 * SOON)
        assert operator.exit_code is None
        assert operator.get("livez")[0] == 200
        assert operator.metrics().count("streamconsumer_ready{") == MANY + 2
        assert operator.logged("reconcile failed; retrying") == []


def test_hostile_names_that_were_stored_past_validation_stop_only_their_own_resource(
    lax_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis = {"url": f"redis://{redis_server.host}:{redis_server.port}/0"}
    fields = [field for field, _ in string_fields() if field not in FREE_TEXTS]
    hostile = [
        with_value(field, ATTACKS[attack], f"attack-{attack_number}-{number}")
        for number, field in enumerate(fields)
        for attack_number, attack in enumerate(("a header", "an escape sequence", "10 kB"))
    ]
    for resource in hostile:
        resource["metadata"]["namespace"] = lax_namespace.name
    everything = {"apiVersion": "v1", "kind": "List", "items": hostile}
    lax_namespace.cluster.kubectl("create", "-f", "-", "--validate=false", input=json.dumps(everything))

    def check_refused() -> None:
        for resource in lax_namespace.list_all("StreamConsumer"):
            name = resource["metadata"]["name"]
            if name.startswith("attack-"):
                conditions = {each["type"]: each for each in resource.get("status", {}).get("conditions", [])}
                assert conditions["Ready"]["reason"] == "InvalidSpec", name
                assert conditions["Ready"]["message"].isprintable(), name

    with running_operator(lax_namespace.cluster.kubeconfig, tmp_path) as operator:
        eventually(check_refused, 3 * SOON)
        assert "attack" not in str(lax_namespace.list_all("Deployment"))
        lax_namespace.create(manifest("honest", redis=redis))
        eventually(lambda: check_served(lax_namespace, "honest", 1), SOON)
        assert operator.logged("reconcile failed; retrying") == []


def check_served(namespace: Namespace, name: str, replicas: int) -> None:
    assert namespace.get("Deployment", f"{name}-consumer")["spec"]["replicas"] == replicas
    conditions = namespace.conditions(name)
    assert (conditions["Ready"]["reason"], conditions["RedisReachable"]["status"]) == ("PodsStarting", "True")
    assert conditions["Ready"]["observedGeneration"] == replicas, "every edit in this test changes the replicas"


def check_conditions(namespace: Namespace) -> None:
    """Check that every StreamConsumer has conditions."""
    resources = namespace.list_all("StreamConsumer")
    assert [each["metadata"]["name"] for each in resources if not each.get("status", {}).get("conditions")] == []
