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
from tests.operator.conftest import define
from tests.operator.operators import OperatorProcess, running
from tests.operator.places import Place, eventually, settled

ROUNDS = 1
MANY = 1000
REST_SECONDS = 600
PATIENCE = 300
"""Seconds to wait for all StreamConsumers on a busy machine."""

HEAD = ["what", "all done after s", "applies an object", "of them status", "events an object", "operator CPU s"]


def measure(number: int) -> Section:
    """Create, restart, update all, update one and rest, on a new cluster per round. Returns the last round."""
    for _ in range(number):
        with ControlPlane() as plane, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
            define(plane)
            section = _Round(Place(plane, "default"), redis, Path(folder)).section()
    return section


class _Round:
    def __init__(self, place: Place, redis: RedisServer, folder: Path) -> None:
        self.place, self.redis, self.folder = place, redis, folder
        self.rows: list[list[str]] = []

    def section(self) -> Section:
        with running(self.place.cluster.kubeconfig, self.folder) as operator:
            settled(self.place, 5)  # a new cluster writes objects of its own
            created, create_writes = self._step("create", operator, self._create)
            operator.stop()
        with running(self.place.cluster.kubeconfig, self.folder) as operator:
            _, restart_writes = self._step("restart of the operator", operator, lambda: self._seen(operator))
            _, update_writes = self._step("update of each", operator, self._update)
            single = self._single()
            settled(self.place, 3)
            _, rest_writes = self._step(f"at rest, {REST_SECONDS} s", operator, lambda: time.sleep(REST_SECONDS))
            resident = operator.resident_mebibytes()
        goals = [
            Goal("seconds until all Deployments and statuses are there", "at most", 30, created, 1),
            Goal("writes an object on create, events included", "at most", 5, create_writes / MANY),
            Goal("writes an object on update, events included", "at most", 2, update_writes / MANY),
            Goal("writes on restart of the operator", "at most", 0, restart_writes, 0),
            Goal(f"writes at rest in {REST_SECONDS} s", "at most", 0, rest_writes, 0),
            Goal("seconds until one edit among them is in its Deployment", "under", 1, single),
            Goal("MiB resident of the operator", "at most", 140, resident, 0),
        ]
        facts = (
            f"{MANY:,} StreamConsumers with two children and a stream each; etcd, API server, controllers, scheduler, "
            "Redis and operator on the same cores, no node, so that pods stay unschedulable. `kubectl create` of one "
            "list is part of the time."
        )
        return Section("operator", facts, HEAD, self.rows, goals)

    def _step(self, what: str, operator: OperatorProcess, act: Callable[[], object]) -> tuple[float, float]:
        """Return the seconds until the step was done, and the number of writes until the cluster was quiet."""
        before, cpu, began = self._writes(), cpu_seconds(operator.pid), time.monotonic()
        act()
        seconds = time.monotonic() - began
        settled(self.place, 3)
        applies, statuses, events = (now - then for now, then in zip(self._writes(), before, strict=True))
        spent = cpu_seconds(operator.pid) - cpu
        each = [f"{count / MANY:.2f}" for count in (applies, statuses, events)]
        self.rows.append([what, f"{seconds:.1f}", *each, f"{spent:.1f}"])
        return seconds, applies + events

    def _create(self) -> None:
        items = [self._consumer(f"orders-{number}") for number in range(MANY)]
        listed = {"apiVersion": "v1", "kind": "List", "items": items}
        self.place.cluster.kubectl("create", "-f", "-", input=json.dumps(listed))
        self._observed(1)

    def _consumer(self, name: str) -> Manifest:
        url = f"redis://{self.redis.host}:{self.redis.port}/0"
        return manifest(name, self.place.namespace, stream=name, redis={"url": url})

    def _update(self) -> None:
        for number in range(MANY):
            self.place.edit(f"orders-{number}", batchCount=20)
        self._observed(2)

    def _observed(self, generation: int) -> None:
        def last_told() -> None:
            last = self.place.get("StreamConsumer", f"orders-{MANY - 1}")
            assert last["status"]["observedGeneration"] == generation

        def told() -> None:
            found = self.place.every("StreamConsumer")
            assert sum(each.get("status", {}).get("observedGeneration") == generation for each in found) == MANY
            assert len(self.place.every("Deployment")) == MANY

        eventually(last_told, PATIENCE)  # listing 1,000 costs the API server as much as serving five of them
        eventually(told, PATIENCE, pause=0.5)

    def _seen(self, operator: OperatorProcess) -> None:
        def reconciled() -> None:
            counted = re.findall(
                r"^streamconsumer_operator_reconciles_total\S* (\S+)$", operator.metrics(), re.MULTILINE
            )
            assert sum(map(float, counted)) >= MANY

        eventually(reconciled, PATIENCE)

    def _single(self) -> float:
        """Edit one StreamConsumer. Returns the seconds until its Deployment has changed."""
        name = f"orders-{MANY // 2}"
        before = self.place.get("Deployment", f"{name}-consumer")["metadata"]["generation"]
        began = time.monotonic()
        self.place.edit(name, batchCount=30)

        def changed() -> None:
            assert self.place.get("Deployment", f"{name}-consumer")["metadata"]["generation"] > before

        eventually(changed, PATIENCE, pause=0.01)
        return time.monotonic() - began

    def _writes(self) -> tuple[float, float, float]:
        """Return the number of server-side applies, of status applies among them, and of the operator's Events."""
        text = self.place.cluster.request("GET", "/metrics", accept="text/plain")
        applies = re.findall(r'^apiserver_request_total\{([^}]*verb="APPLY"[^}]*)\} (\S+)$', text, re.MULTILINE)
        statuses = sum(float(count) for labels, count in applies if 'subresource="status"' in labels)
        events = [each["reportingController"] for each in self.place.every("Event")]
        return sum(float(count) for _, count in applies), statuses, float(events.count(names.FIELD_MANAGER))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
