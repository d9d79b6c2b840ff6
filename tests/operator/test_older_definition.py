"""An operator on a CRD of an earlier version, which lacks fields of the status. `helm upgrade` with
`crds.enabled=false` leaves such a CRD in the cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.model.crd import custom_resource_definition
from streamconsumer.operator.kube.status_writer import OLDER_CRD, RECHECK_INTERVAL, REMEDY
from tests.cluster.api_server import ApiServer
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import Manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess
from tests.operator.redis_operator import create_group, manifest_for, running_with_redis, wait_for_stats

pytestmark = pytest.mark.cluster

UNDECLARED = ("conditions[].observedGeneration", "effective", "stream.deadLetters", "stream.lagKnown")


def older_definition() -> Manifest:
    """Return the CRD without the fields of the status in UNDECLARED."""
    definition = custom_resource_definition()
    for version in definition["spec"]["versions"]:
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
        for path in UNDECLARED:
            remove_property(status, path.replace("[]", ".[]").split("."))
    return definition


def remove_property(schema: Manifest, path: list[str]) -> None:
    *parents, name = path
    for parent in parents:
        schema = schema["items"] if parent == "[]" else schema["properties"][parent]
    del schema["properties"][name]
    schema["required"] = [each for each in schema.get("required", []) if each != name]


@pytest.fixture(scope="module")
def older_namespace() -> Iterator[Namespace]:
    """A namespace on a separate API server, because the tests change the CRD."""
    with ApiServer() as server:
        install_crd(server, older_definition())
        yield Namespace(server, "default")


def test_status_is_written_as_far_as_an_older_definition_allows(
    older_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    create_group(redis_server)
    with running_with_redis(older_namespace, tmp_path) as operator:
        for name in ("orders", "parcels"):
            older_namespace.create(manifest_for(redis_server, name))
            wait_for_stats(older_namespace, name, lag=0, pending=0, lagKnown=None)
            status = older_namespace.get("StreamConsumer", name)["status"]
            assert {"Ready", "RedisReachable"} <= {each["type"] for each in status["conditions"]}
            assert status["desiredReplicas"] == 1
            assert "effective" not in status
        lines = operator.logged(OLDER_CRD)
        assert 1 <= len(lines) <= len(UNDECLARED), "one line for newly found fields, not one for each object or write"
        assert lines[-1]["remedy"] == REMEDY
        assert set(lines[-1]["fields"]) == set(UNDECLARED)
        assert operator.get("readyz") == (200, f"ok; {OLDER_CRD}; {REMEDY}\n")
        assert operator.unexpected_lines() == lines

        install_crd(older_namespace.cluster)
        eventually(lambda: check_complete(older_namespace, operator), 2 * RECHECK_INTERVAL.total_seconds() + 60, 3)
    assert operator.logged(OLDER_CRD) == lines


def check_complete(namespace: Namespace, operator: OperatorProcess) -> None:
    """Cause a status write, and check the previous one."""
    status: dict[str, Any] = namespace.get("StreamConsumer", "orders")["status"]
    namespace.edit("orders", replicas=status["desiredReplicas"] % 2 + 1)
    assert status["effective"]["image"]
    assert status["stream"]["lagKnown"] is True
    assert all(each["observedGeneration"] for each in status["conditions"])
    assert operator.get("readyz") == (200, "ok\n")


def test_older_operator_leaves_the_fields_of_a_newer_definition_alone(
    older_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    definition = custom_resource_definition()
    for version in definition["spec"]["versions"]:
        properties = version["schema"]["openAPIV3Schema"]["properties"]
        properties["status"]["properties"]["newField"] = {"type": "string"}
        properties["spec"]["properties"]["newSetting"] = {"type": "string"}
    install_crd(older_namespace.cluster, definition)
    with running_with_redis(older_namespace, tmp_path) as operator:
        older_namespace.create(manifest_for(redis_server, "newer"))
        wait_for_stats(older_namespace, "newer", length=0)
        older_namespace.patch("StreamConsumer", "newer", {"status": {"newField": "kept"}}, "/status")
        older_namespace.edit("newer", replicas=2)
        eventually(lambda: check_replicas(older_namespace, "newer", 2))
        assert older_namespace.get("StreamConsumer", "newer")["status"]["newField"] == "kept"
        assert operator.unexpected_lines() == []


def check_replicas(namespace: Namespace, name: str, replicas: int) -> None:
    resource = namespace.get("StreamConsumer", name)
    assert resource["apiVersion"] == names.API_VERSION
    assert resource["status"]["desiredReplicas"] == replicas
