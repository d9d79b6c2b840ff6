"""Workload: the cost of 1,000 StreamConsumers for the operator and a real API server with Kubernetes' controllers."""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import Goal, Section
from streamconsumer.model import names
from tests.cluster.control_plane import ControlPlane
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import Manifest, manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import Namespace, eventually, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator

ROUNDS = 1
CONSUMERS = 1000
REST_SECONDS = 600
TIMEOUT_SECONDS = 300
"""Limit for all StreamConsumers, on a busy machine."""

HEAD = [
    "phase",
    "finished after s",
    "applies per object",
    "status applies per object",
    "Events per object",
    "operator CPU s",
]


def measure(number: int) -> Section:
    """Create, restart, update all, update one and rest, on a new cluster per round. Returns the last round."""
    for _ in range(number):
        with ControlPlane() as plane, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
            install_crd(plane)
            section = _Round(Namespace(plane, "default"), redis, Path(folder)).section()
    return section


class _Round:
    def __init__(self, namespace: Namespace, redis: RedisServer, folder: Path) -> None:
        self.namespace, self.redis, self.folder = namespace, redis, folder
        self.rows: list[list[str]] = []

    def section(self) -> Section:
        with running_operator(self.namespace.cluster.kubeconfig, self.folder) as operator:
            wait_until_settled(self.namespace, 5)  # the new cluster writes objects of its own
            created, create_writes = self._step("create", operator, self._create)
            operator.stop()
        with running_operator(self.namespace.cluster.kubeconfig, self.folder) as operator:
            _, restart_writes = self._step(
                "restart of the operator", operator, lambda: self._wait_until_reconciled(operator)
            )
            _, update_writes = self._step("update of all", operator, self._update)
            single = self._measure_single_edit()
            wait_until_settled(self.namespace, 3)
            _, rest_writes = self._step(f"at rest, {REST_SECONDS} s", operator, lambda: time.sleep(REST_SECONDS))
            resident = operator.resident_mebibytes()
        goals = [
            Goal("seconds until all Deployments and statuses exist", "at most", 30, created, 1),
            Goal("writes per object on create, including Events", "at most", 5, create_writes / CONSUMERS),
            Goal("writes per object on update, including Events", "at most", 2, update_writes / CONSUMERS),
            Goal("writes on restart of the operator", "at most", 0, restart_writes, 0),
            Goal(f"writes at rest in {REST_SECONDS} s", "at most", 0, rest_writes, 0),
            Goal("seconds until a single edit reaches its Deployment", "under", 1, single),
            Goal("resident MiB of the operator", "at most", 140, resident, 0),
        ]
        facts = (
            f"{CONSUMERS:,} StreamConsumers with two children and one stream each; etcd, API server, controllers, "
            "scheduler, Redis and operator on the same cores, no node, so that pods stay unschedulable. `kubectl "
            "create` of one list is part of the time."
        )
        return Section("operator", facts, HEAD, self.rows, goals)

    def _step(self, name: str, operator: OperatorProcess, action: Callable[[], object]) -> tuple[float, float]:
        """Run a phase. Returns its seconds, and the writes until the cluster has settled."""
        writes, cpu, began = self._writes(), cpu_seconds(operator.pid), time.monotonic()
        action()
        seconds = time.monotonic() - began
        wait_until_settled(self.namespace, 3)
        applies, statuses, events = (now - then for now, then in zip(self._writes(), writes, strict=True))
        spent = cpu_seconds(operator.pid) - cpu
        per_object = [f"{count / CONSUMERS:.2f}" for count in (applies, statuses, events)]
        self.rows.append([name, f"{seconds:.1f}", *per_object, f"{spent:.1f}"])
        return seconds, applies + events

    def _create(self) -> None:
        items = [self._consumer(f"orders-{number}") for number in range(CONSUMERS)]
        manifest_list = {"apiVersion": "v1", "kind": "List", "items": items}
        self.namespace.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest_list))
        self._wait_until_observed(1)

    def _consumer(self, name: str) -> Manifest:
        url = f"redis://{self.redis.host}:{self.redis.port}/0"
        return manifest(name, self.namespace.name, stream=name, redis={"url": url})

    def _update(self) -> None:
        for number in range(CONSUMERS):
            self.namespace.edit(f"orders-{number}", batchCount=20)
        self._wait_until_observed(2)

    def _wait_until_observed(self, generation: int) -> None:
        def check_last() -> None:
            last = self.namespace.get("StreamConsumer", f"orders-{CONSUMERS - 1}")
            assert last["status"]["observedGeneration"] == generation

        def check_all() -> None:
            consumers = self.namespace.list_all("StreamConsumer")
            generations = [each.get("status", {}).get("observedGeneration") for each in consumers]
            assert generations.count(generation) == CONSUMERS
            assert len(self.namespace.list_all("Deployment")) == CONSUMERS

        # The last object first: a list of 1,000 costs the API server as much as all work for five of them.
        eventually(check_last, TIMEOUT_SECONDS)
        eventually(check_all, TIMEOUT_SECONDS, pause=0.5)

    def _wait_until_reconciled(self, operator: OperatorProcess) -> None:
        def check_reconciled() -> None:
            counts = re.findall(
                r"^streamconsumer_operator_reconciles_total\S* (\S+)$", operator.metrics(), re.MULTILINE
            )
            assert sum(map(float, counts)) >= CONSUMERS

        eventually(check_reconciled, TIMEOUT_SECONDS)

    def _measure_single_edit(self) -> float:
        """Edit one StreamConsumer. Returns the seconds until its Deployment has changed."""
        name = f"orders-{CONSUMERS // 2}"
        generation = self.namespace.get("Deployment", f"{name}-consumer")["metadata"]["generation"]
        began = time.monotonic()
        self.namespace.edit(name, batchCount=30)

        def check_changed() -> None:
            assert self.namespace.get("Deployment", f"{name}-consumer")["metadata"]["generation"] > generation

        eventually(check_changed, TIMEOUT_SECONDS, pause=0.01)
        return time.monotonic() - began

    def _writes(self) -> tuple[float, float, float]:
        """Return the number of server-side applies, of status applies among them, and of the operator's Events."""
        text = self.namespace.cluster.request("GET", "/metrics", accept="text/plain")
        applies = re.findall(r'^apiserver_request_total\{([^}]*verb="APPLY"[^}]*)\} (\S+)$', text, re.MULTILINE)
        statuses = sum(float(count) for labels, count in applies if 'subresource="status"' in labels)
        events = [each["reportingController"] for each in self.namespace.list_all("Event")]
        return sum(float(count) for _, count in applies), statuses, float(events.count(names.FIELD_MANAGER))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
