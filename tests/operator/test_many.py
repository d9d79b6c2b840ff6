"""Two hundred at once. The limits are generous, the figures are printed: `pytest -s tests/operator/test_many.py`."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.model.examples import manifest
from tests.operator.operators import running
from tests.operator.places import Place, eventually, settled

MANY = 200
NAMES = [f"orders-{number}" for number in range(MANY)]

MOST_SECONDS = 60
MOST_WRITES_EACH = 12
MOST_MEBIBYTES = 250
REST_SECONDS = 10


def applied(cluster: ApiServer) -> float:
    """How many server-side applies the API server has seen: none here but the operator's."""
    text = cluster.request("GET", "/metrics", accept="text/plain")
    counted = re.findall(r'^apiserver_request_total\{[^}]*verb="APPLY"[^}]*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, counted))


@pytest.mark.timeout(240)
def test_two_hundred_at_once_are_served_soon_and_then_left_alone(on_plane: Place, tmp_path: Path) -> None:
    with running(on_plane.cluster.kubeconfig, tmp_path, watch_namespaces=on_plane.namespace) as operator:
        empty, before, began = operator.resident_mebibytes(), applied(on_plane.cluster), time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: on_plane.create(manifest(name)), NAMES))
        created = time.monotonic() - began

        def served() -> None:
            found = on_plane.every("StreamConsumer")
            ready = [each for each in found if (each.get("status") or {}).get("observedGeneration") == 1]
            assert len(ready) == MANY
            assert len(on_plane.every("Deployment")) == MANY

        eventually(served, MOST_SECONDS)
        seconds = time.monotonic() - began
        eventually(lambda: every_ready(on_plane), MOST_SECONDS)
        settled(on_plane, 2)
        writes = applied(on_plane.cluster) - before
        events = sum(each["reportingController"] == "streamconsumer-operator" for each in on_plane.every("Event"))
        resident = operator.resident_mebibytes()
        rest = applied(on_plane.cluster), on_plane.versions()
        time.sleep(REST_SECONDS)
        assert (applied(on_plane.cluster), on_plane.versions()) == rest
        assert operator.noise() == []
    print(
        f"\n{MANY} StreamConsumers: created in {created:.1f} s, Deployments and statuses of all after {seconds:.1f} s;"
        f"\n{writes / MANY:.2f} applies and {events / MANY:.2f} events each; 0 writes in {REST_SECONDS} s at rest;"
        f"\nthe operator has {resident:.0f} MiB resident, {empty:.0f} MiB before"
    )
    assert writes + events <= MOST_WRITES_EACH * MANY
    assert resident < MOST_MEBIBYTES


def every_ready(place: Place) -> None:
    reasons = {name: place.reason(name) for name in NAMES[:: MANY // 10]}
    assert set(reasons.values()) == {"Unschedulable"}
