"""A node without a kubelet: the scheduler binds pods to the node, and the test writes the statuses of the pods."""

import http.client
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ProgramFailed
from tests.model.examples import Manifest
from tests.operator.namespace import Namespace

NAME = "stand-in"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NAME}"
BOUND_PODS = f"/api/v1/pods?fieldSelector=spec.nodeName={NAME}"
CAPACITY = {"cpu": "10000", "memory": "100Ti", "pods": "100000"}

RENEW_SECONDS = 10.0
"""The interval at which the Lease of the node is renewed. Kubernetes evicts the pods of a node without renewals."""

PAUSE_SECONDS = 1.0

ERRORS = (ProgramFailed, OSError, http.client.HTTPException)
"""The errors of a request to an API server that is down, or about an object that was deleted in the meantime."""


class NodeStandIn:
    """A ready node. A thread reports each new pod as ready, and removes each deleted pod."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._cluster = cluster
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._renewed_seconds = 0.0

    def __enter__(self) -> Self:
        metadata = {"name": NAME, "labels": {"kubernetes.io/hostname": NAME}}
        status = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [_condition("Ready")]}
        self._cluster.request("POST", "/api/v1/nodes", {"metadata": metadata, "status": status})
        self._cluster.request("POST", LEASE.rpartition("/")[0], {"metadata": {"name": NAME}, "spec": {}})
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopped.set()
        self._thread.join()

    def evict(self, namespace: Namespace) -> int:
        """Report every ready pod of the namespace as evicted, as a kubelet that is short of memory does. Returns the
        number of pods."""
        pods = [pod for pod in namespace.list_all("Pod") if is_ready(pod)]
        failed = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
        for pod in pods:
            conditions = [_condition("Ready", "False"), _condition("ContainersReady", "False")]
            status = {**failed, "conditions": conditions, "containerStatuses": None}
            namespace.patch("Pod", pod["metadata"]["name"], {"status": status}, "/status")
        return len(pods)

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_SECONDS):
            with suppress(*ERRORS):  # the next round tries again
                self._renew()
                for pod in self._cluster.request("GET", BOUND_PODS)["items"]:
                    self._update(pod)

    def _renew(self) -> None:
        if time.monotonic() < self._renewed_seconds + RENEW_SECONDS:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": now}
        self._cluster.request("PATCH", LEASE, {"spec": spec})
        self._renewed_seconds = time.monotonic()

    def _update(self, pod: Manifest) -> None:
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        with suppress(ProgramFailed):  # deleted since the list
            if "deletionTimestamp" in pod["metadata"]:
                self._cluster.request("DELETE", path, {"gracePeriodSeconds": 0})
            elif pod["status"]["phase"] == "Pending":
                self._cluster.request("PATCH", f"{path}/status", {"status": _ready_status(pod)})


def is_ready(pod: Manifest) -> bool:
    """Return True if the pod is ready and is not about to end."""
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _ready_status(pod: Manifest) -> Manifest:
    now = _now()
    containers = [
        {
            "name": each["name"],
            "image": each["image"],
            "imageID": "",
            "restartCount": 0,
            "ready": True,
            "started": True,
            "state": {"running": {"startedAt": now}},
        }
        for each in pod["spec"]["containers"]
    ]
    types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    conditions = [_condition(each) for each in types]
    return {"phase": "Running", "startTime": now, "conditions": conditions, "containerStatuses": containers}


def _condition(kind: str, status: str = "True") -> dict[str, Any]:
    now = _now()
    return {"type": kind, "status": status, "reason": "StandIn", "lastTransitionTime": now}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
