"""The cluster of middle size: an API server with controllers and scheduler, without a node.

The controllers create ReplicaSets and Pods for Deployments, and the Pods stay Pending. Garbage collection, disruption
budgets, service accounts and namespace deletion work as in any cluster.
"""

from __future__ import annotations

from pathlib import Path

from tests.cluster.api_server import START_TIMEOUT, ApiServer, Flags
from tests.cluster.binaries import find
from tests.cluster.clusters import Cluster
from tests.cluster.credentials import CONTROLLER_MANAGER, SCHEDULER, User
from tests.cluster.errors import BenchError

POD_NETWORK = "10.244.0.0/16"


class ControlPlane(ApiServer):
    """etcd, kube-apiserver, kube-controller-manager and kube-scheduler, all on loopback."""

    kind = "control-plane"
    disabled_admission = ""

    def delete_namespace(self, name: str) -> None:
        Cluster.delete_namespace(self, name)

    def _start(self) -> None:
        manager, scheduler = find("kube-controller-manager"), find("kube-scheduler")
        super()._start()
        self._start_scheduler(scheduler)
        self._start_controller_manager(manager)

    def _start_controller_manager(self, binary: Path) -> None:
        credentials = self.credentials
        flags: Flags = {
            "kubeconfig": self._kubeconfig_for(CONTROLLER_MANAGER, "manager"),
            "use-service-account-credentials": "true",
            "leader-elect": "false",
            "secure-port": "0",
            "root-ca-file": credentials.ca,
            "service-account-private-key-file": credentials.service_account_key,
            "cluster-signing-cert-file": credentials.ca,
            "cluster-signing-key-file": credentials.ca_key,
            "cluster-cidr": POD_NETWORK,
            "profiling": "false",
            # With the default of 20 requests a second, starting all controllers takes five seconds.
            "kube-api-qps": "500",
            "kube-api-burst": "1000",
        }
        self._launch(binary, flags)

    def _start_scheduler(self, binary: Path) -> None:
        flags: Flags = {
            "kubeconfig": self._kubeconfig_for(SCHEDULER, "scheduler"),
            "leader-elect": "false",
            "secure-port": "0",
            "profiling": "false",
        }
        self._launch(binary, flags)

    def _wait(self) -> None:
        self.programs["kube-controller-manager"].wait_until(self._controllers_are_running, START_TIMEOUT)

    def _kubeconfig_for(self, user: User, name: str) -> Path:
        return self.credentials.write_kubeconfig(self.directory / f"{name}.kubeconfig", self.url, user)

    def _controllers_are_running(self) -> bool:
        """Return True once a controller has created the default service account, which every pod needs."""
        try:
            self.request("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        except (OSError, BenchError):
            return False
        return True
