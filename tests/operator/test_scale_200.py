"""200 StreamConsumers created together. The limits are generous; use `pytest -s` to see the measured figures."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.model.examples import Manifest, manifest
from tests.operator.namespace import Namespace, eventually, wait_until_settled
from tests.operator.operator_process import running_operator

MANY = 200

MAX_SECONDS = 60
MAX_WRITES_EACH = 12
MAX_MEBIBYTES = 250
REST_SECONDS = 10


def applied(cluster: ApiServer) -> float:
    """Return the number of server-side applies at the API server. Only the operator sends them in this test."""
    text = cluster.request("GET", "/metrics", accept="text/plain")
    counted = re.findall(r'^apiserver_request_total\{[^}]*verb="APPLY"[^}]*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, counted))


def manifest_list(namespace: str) -> Manifest:
    items = [manifest(f"orders-{number}", namespace) for number in range(MANY)]
    return {"apiVersion": "v1", "kind": "List", "items": items}


@pytest.mark.timeout(240)
def test_200_streamconsumers_are_served_quickly_and_then_cause_no_writes(
    plane_namespace: Namespace, tmp_path: Path
) -> None:
    with running_operator(
        plane_namespace.cluster.kubeconfig, tmp_path, watch_namespaces=plane_namespace.name
    ) as operator:
        empty, before, began = operator.resident_mebibytes(), applied(plane_namespace.cluster), time.monotonic()
        plane_namespace.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest_list(plane_namespace.name)))
        created = time.monotonic() - began

        def served() -> None:
            resources = plane_namespace.list_all("StreamConsumer")
            assert sum(each.get("status", {}).get("observedGeneration") == 1 for each in resources) == MANY
            assert len(plane_namespace.list_all("Deployment")) == MANY

        eventually(served, MAX_SECONDS, pause=0.5)
        seconds = time.monotonic() - began
        eventually(lambda: check_unschedulable(plane_namespace), MAX_SECONDS, pause=0.5)
        wait_until_settled(plane_namespace, 2)
        writes = applied(plane_namespace.cluster) - before
        events = sum(
            each["reportingController"] == "streamconsumer-operator" for each in plane_namespace.list_all("Event")
        )
        resident = operator.resident_mebibytes()
        rest = applied(plane_namespace.cluster), plane_namespace.versions()
        time.sleep(REST_SECONDS)
        assert (applied(plane_namespace.cluster), plane_namespace.versions()) == rest
        assert operator.unexpected_lines() == []
    print(
        f"\n{MANY} StreamConsumers: created in {created:.1f} s, Deployments and statuses of all after {seconds:.1f} s;"
        f"\n{writes / MANY:.2f} applies and {events / MANY:.2f} events each; 0 writes in {REST_SECONDS} s at rest;"
        f"\nthe operator has {resident:.0f} MiB resident, {empty:.0f} MiB before"
    )
    assert writes + events <= MAX_WRITES_EACH * MANY
    assert resident < MAX_MEBIBYTES


def check_unschedulable(namespace: Namespace) -> None:
    """Check that every status reports the unschedulable pods."""
    statuses = [each["status"]["conditions"] for each in namespace.list_all("StreamConsumer")]
    assert {each["reason"] for conditions in statuses for each in conditions if each["type"] == "Ready"} == {
        "Unschedulable"
    }
