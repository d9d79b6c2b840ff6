"""Tenants whose StreamConsumers and children are as large as the API server accepts.

The operator must not need memory in proportion to the number of these objects: when it starts, while it runs, and after
its watches were interrupted.
"""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api_server import ApiServer, Flags
from tests.cluster.processes import Program
from tests.hostile.measured_operator import MeasuredOperator, Record, is_unhandled, measured_operator
from tests.model.examples import Manifest, manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import PREFIXES, Namespace, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]

MAX_PEAK_MEBIBYTES = 200
"""Without StreamConsumers, the measured operator needs 100 MiB."""

VICTIM = "victim"
MERGE_PATCH = "application/merge-patch+json"


def long_values(mark: str) -> Manifest:
    """Return a spec of 0.9 MB."""
    return {"env": [{"name": f"V{number}", "value": mark + "x" * 9000} for number in range(100)]}


def wide_characters(mark: str) -> Manifest:
    """Return a spec of 0.9 MB whose strings need 4 bytes per character in memory."""
    return {"env": [{"name": f"V{number}", "value": mark + "\U0001f600" + "x" * 9000} for number in range(100)]}


def many_names(mark: str) -> Manifest:
    """Return a spec with as many objects as the CRD accepts."""
    selector = {"configMapKeyRef": {"name": "c" * 200, "key": "k" * 200, "optional": True}}
    variables = [{"name": f"V{number}{'N' * 200}", "valueFrom": selector} for number in range(256)]
    annotations = {f"example.com/{number}{'n' * 50}": mark + "x" * 8000 for number in range(30)}
    return {"env": variables, "podAnnotations": annotations}


def long_source(mark: str) -> Manifest:
    """Return a spec whose ConfigMap has 260 kB."""
    return {"handler": {"source": f"# {mark}\n" + "x" * 250_000}, "image": None}


def large_reference(mark: str) -> Manifest:
    """Return a small spec that refers to the ConfigMap `wide_config_map`."""
    return {"env": [{"name": "MARK", "value": mark}], "envFrom": [{"configMapRef": {"name": "wide"}}]}


def wide_config_map() -> Manifest:
    """Return a ConfigMap of 1 MB that takes 15 MB of memory after parsing."""
    return {"metadata": {"name": "wide"}, "data": {f"{number:x}": "" for number in range(40_000)}}


SPECS: tuple[Callable[[str], Manifest], ...] = (long_values, wide_characters, many_names, long_source, large_reference)


@dataclass(frozen=True)
class Scale:
    namespaces: int
    consumers: int
    """Number of StreamConsumers in each namespace."""
    seconds: int
    """Time limit for the reconciles of all of them."""


@dataclass
class Outcome:
    """Everything that was observed."""

    peaks: dict[str, float] = field(default_factory=dict)
    """Peak of the memory, by phase."""
    victim_seconds: dict[str, float] = field(default_factory=dict)
    """Time until an edit of the victim's StreamConsumer was applied, by phase."""
    unserved: dict[str, list[str]] = field(default_factory=dict)
    log_problems: list[str] = field(default_factory=list)
    long_callbacks: list[Record] = field(default_factory=list)


class LargeApiServer(ApiServer):
    """An API server whose etcd can store the objects of the long variant."""

    def _launch(self, binary: Path, flags: Flags, environment: Mapping[str, str] | None = None) -> Program:
        if binary.name == "etcd":
            flags = {**flags, "quota-backend-bytes": str(8 << 30)}
        return super()._launch(binary, flags, environment)


class Tenants:
    """Requests of the tenants over one connection. A new connection for each request would take longer."""

    def __init__(self, server: ApiServer, scale: Scale) -> None:
        self._server, self._scale = server, scale
        self._namespaces = [f"tenant-{number}" for number in range(scale.namespaces)]
        self._context = ssl.create_default_context(cafile=server.ca)
        self._connect()

    def _connect(self) -> None:
        self._connection = http.client.HTTPSConnection(
            self._server.address, self._server.port, timeout=60, context=self._context
        )

    def create(self) -> None:
        for namespace in self._namespaces:
            self._server.kubectl("create", "namespace", namespace)
            self._request("POST", PREFIXES["ConfigMap"].format(namespace), wide_config_map())
            for number, spec in self._specs("one"):
                item = manifest(f"large-{number}", namespace, **{key: value or ... for key, value in spec.items()})
                item["metadata"]["annotations"] = {"note": "x" * 50_000}
                self._request("POST", self._path(namespace), item)

    def edit(self) -> None:
        """Change the large part of each StreamConsumer, and the annotations of each Deployment."""
        for namespace in self._namespaces:
            for number, spec in self._specs("two"):
                self._request("PATCH", f"{self._path(namespace)}/large-{number}", {"spec": spec})

    def enlarge_deployments(self) -> None:
        """Add annotations to each Deployment, as a tenant may do who can edit Deployments."""
        change = {"metadata": {"annotations": {"note": "x" * 250_000}}}
        for namespace in self._namespaces:
            for number in range(self._scale.consumers):
                path = PREFIXES["Deployment"].format(namespace)
                self._request("PATCH", f"{path}/large-{number}-consumer", change)

    def reconnect(self) -> None:
        self.close()
        self._connect()

    def close(self) -> None:
        self._connection.close()

    def unserved(self) -> list[str]:
        """Return the StreamConsumers whose last generation has no Deployment."""
        return [name for namespace in self._namespaces for name in self._unserved(namespace)]

    def _unserved(self, namespace: str) -> Iterator[str]:
        path, token = self._path(namespace), ""
        while True:
            page = self._request("GET", f"{path}?limit=20" + (f"&continue={token}" if token else ""))
            for item in page["items"]:
                status = item.get("status", {})
                reasons = {each["type"]: each["reason"] for each in status.get("conditions", [])}
                is_current = status.get("observedGeneration") == item["metadata"]["generation"]
                if not is_current or reasons.get("Ready") != "PodsStarting":
                    yield f"{namespace}/{item['metadata']['name']}: {reasons}"
            if not (token := page["metadata"].get("continue", "")):
                return

    def _specs(self, mark: str) -> Iterator[tuple[int, Manifest]]:
        for number in range(self._scale.consumers):
            yield number, SPECS[number % len(SPECS)](mark)

    def _path(self, namespace: str) -> str:
        return PREFIXES["StreamConsumer"].format(namespace)

    def _request(self, method: str, path: str, body: Manifest | None = None) -> Any:
        content_type = MERGE_PATCH if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._server.token}", "Content-Type": content_type}
        self._connection.request(method, path, json.dumps(body).encode() if body else None, headers)
        response = self._connection.getresponse()
        text = response.read()
        assert response.status < 300, text[:500]
        return json.loads(text)


class Measurement:
    """The phases of one run of the operator."""

    def __init__(self, operator: MeasuredOperator, tenants: Tenants, victim: Namespace, scale: Scale) -> None:
        self._operator, self._tenants, self._victim, self._scale = operator, tenants, victim, scale

    def record(self, phase: str, outcome: Outcome) -> None:
        """Wait until the victim and all tenants are served, and record the memory."""
        outcome.victim_seconds[phase] = self._edit_victim()
        eventually(partial(self._check_served, outcome, phase), self._scale.seconds, pause=1)
        outcome.peaks[phase] = self._operator.peak_mebibytes()
        print(f"\n{phase}: {outcome.peaks[phase]:.0f} MiB, victim {outcome.victim_seconds[phase]:.1f} s", end="")

    def _edit_victim(self) -> float:
        began, replicas = (
            time.monotonic(),
            self._victim.get("StreamConsumer", VICTIM)["spec"].get("replicas", 1) % 9 + 1,
        )
        self._victim.edit(VICTIM, replicas=replicas)

        def check() -> None:
            assert self._victim.get("Deployment", f"{VICTIM}-consumer")["spec"]["replicas"] == replicas

        eventually(check)
        return time.monotonic() - began

    def _check_served(self, outcome: Outcome, phase: str) -> None:
        assert self._operator.exit_code is None
        outcome.unserved[phase] = self._tenants.unserved()
        assert outcome.unserved[phase] == []


@pytest.fixture(
    scope="module",
    params=[Scale(2, 10, 180), pytest.param(Scale(5, 200, 3600), marks=pytest.mark.chaos)],
    ids=lambda scale: f"{scale.namespaces}x{scale.consumers}",
)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder, scale, outcome = tmp_path_factory.mktemp("large"), request.param, Outcome()
    with LargeApiServer() as server:
        install_crd(server)
        tenants, victim = Tenants(server, scale), Namespace(server, VICTIM)
        server.kubectl("create", "namespace", VICTIM)
        victim.create(manifest(VICTIM))
        tenants.create()
        for run in ("first start", "second start"):
            since = time.monotonic()
            with measured_operator(server.kubeconfig, folder) as operator:
                measurement = Measurement(operator, tenants, victim, scale)
                measurement.record(run, outcome)
                if run == "first start":
                    tenants.edit()
                    measurement.record("after an edit of all", outcome)
                    tenants.enlarge_deployments()
                    measurement.record("with large Deployments", outcome)
                    # While the API server is down, the operator logs errors.
                    outcome.log_problems += log_problems(operator)
                    restart(server)
                    tenants.reconnect()
                    measurement.record("after an interruption of the watches", outcome)
                else:
                    outcome.log_problems += log_problems(operator)
                outcome.long_callbacks += operator.long_callbacks(since)
        tenants.close()
        yield outcome


def log_problems(operator: MeasuredOperator) -> list[str]:
    return [str(each)[:1500] for each in operator.lines() if is_unhandled(each)]


def restart(server: ApiServer) -> None:
    program = server.programs["kube-apiserver"]
    program.kill()
    program.start()
    program.wait_until(server._is_ready, 60)


def test_the_memory_does_not_grow_with_the_number_of_large_objects(outcome: Outcome) -> None:
    assert {phase: peak for phase, peak in outcome.peaks.items() if peak > MAX_PEAK_MEBIBYTES} == {}


def test_all_large_streamconsumers_are_served(outcome: Outcome) -> None:
    assert {phase: found for phase, found in outcome.unserved.items() if found} == {}


def test_another_tenant_is_served_before_the_large_streamconsumers(outcome: Outcome) -> None:
    assert {phase: seconds for phase, seconds in outcome.victim_seconds.items() if seconds > 10} == {}


def test_no_callback_of_the_event_loop_needs_more_than_100_ms(outcome: Outcome) -> None:
    assert outcome.long_callbacks == []


def test_the_log_contains_no_unhandled_error(outcome: Outcome) -> None:
    assert outcome.log_problems == []
