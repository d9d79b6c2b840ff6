"""The smallest cluster: etcd and kube-apiserver, without controllers.

The API server stores objects and no controller acts on them. That is enough for schemas, CEL, defaulting, server-side
apply, the status and scale subresources, RBAC and admission policies.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.cluster.binaries import find
from tests.cluster.clusters import Cluster
from tests.cluster.credentials import ADMIN, SERVICE_NETWORK, Credentials
from tests.cluster.errors import BenchError, ProgramFailed
from tests.cluster.namespaces import empty_namespace
from tests.cluster.processes import Program, free_port
from tests.cluster.runs import Run

START_TIMEOUT = 60.0
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:masters", "system:nodes", "system:node-proxier"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "None", "users": ["system:apiserver", "system:anonymous"]},
        {"level": "Metadata"},
    ],
}
"""Logs every request except those of the cluster's own components and of its administrator."""
MAX_TRIES = 3

Flags = Mapping[str, str | Path]


class ApiServer(Cluster):
    """etcd and kube-apiserver on their own loopback ports. Several instances can run at a time.

    Each user of `credentials.USERS` has a token. `kubectl --as` is the easiest way to test RBAC.
    """

    kind = "api"
    # No controller creates the default service account, so this admission plugin would reject all pods.
    disabled_admission = "ServiceAccount"
    address = "127.0.0.1"
    etcd_host = "127.0.0.1"
    token = ADMIN.token

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self.port = 0
        self.programs: dict[str, Program] = {}
        self._run: Run | None = None

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def directory(self) -> Path:
        """The folder of logs, credentials and kubeconfigs."""
        if self._run is None:
            raise RuntimeError(f"this {type(self).__name__} is not running: call start() first")
        return self._run.path

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.directory / "pki", self.address)

    @property
    def ca(self) -> Path:
        return self.credentials.ca

    @property
    def audit_log(self) -> Path:
        """The log with one line of JSON for each request that AUDIT_POLICY selects."""
        return self.directory / "audit.log"

    @property
    def _scratch(self) -> Path:
        return self.directory

    def start(self) -> Self:
        for attempt in range(MAX_TRIES):
            self._run = Run.keep(self.kind) if self.keep else Run.begin(self.kind)
            try:
                self._start()
                self._wait()
            except BaseException:
                lost_a_port = any(program.lost_its_port for program in self.programs.values())
                self.stop()
                if lost_a_port and attempt < MAX_TRIES - 1:
                    continue
                raise
            break
        return self

    def stop(self) -> None:
        """Kill all programs and delete their state."""
        for program in self.programs.values():
            program.kill()
        self.programs = {}
        if self._run is not None:
            self._run.end()
            self._run = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def _start(self) -> None:
        binaries = {name: find(name) for name in ("etcd", "kube-apiserver", "kubectl")}
        etcd_port, peer_port, self.port = self._ports()
        self._start_etcd(binaries["etcd"], etcd_port, peer_port)
        self.credentials.write()
        self.kubeconfig = self._write_kubeconfig()
        self._start_api_server(binaries["kube-apiserver"], etcd_port)

    def _ports(self) -> tuple[int, int, int]:
        """Return the ports for etcd, its peers and the API server."""
        return free_port(), free_port(), free_port()

    def _wait(self) -> None:
        """Wait until the programs that `_start` did not wait for are ready."""

    def _write_kubeconfig(self) -> Path:
        return self.credentials.write_kubeconfig(self.directory / "kubeconfig", self.url, ADMIN)

    def _start_etcd(self, binary: Path, port: int, peer_port: int) -> None:
        client, peer = f"http://{self.etcd_host}:{port}", f"http://{self.etcd_host}:{peer_port}"
        flags: Flags = {
            "data-dir": self.directory / "etcd",
            "log-level": "warn",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            # State of a test need not survive a crash, and fsync is most of the latency of a write.
            "unsafe-no-fsync": "true",
        }
        self._launch(binary, flags)

    def _start_api_server(self, binary: Path, etcd_port: int) -> None:
        credentials = self.credentials
        policy = self.directory / "audit-policy.json"
        policy.write_text(json.dumps(AUDIT_POLICY))
        flags: Flags = {
            "audit-policy-file": policy,
            "audit-log-path": self.audit_log,
            "etcd-servers": f"http://{self.etcd_host}:{etcd_port}",
            "secure-port": str(self.port),
            "advertise-address": self.address,
            "service-cluster-ip-range": SERVICE_NETWORK,
            "tls-cert-file": credentials.certificate,
            "tls-private-key-file": credentials.key,
            "token-auth-file": credentials.tokens,
            "authorization-mode": "Node,RBAC",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": credentials.service_account_key,
            "service-account-signing-key-file": credentials.service_account_key,
            "allow-privileged": "true",
            "profiling": "false",
            **self._serving_flags(),
        }
        server = self._launch(binary, flags)
        server.wait_until(self._is_ready, START_TIMEOUT)

    def _serving_flags(self) -> Flags:
        """Return flags for loopback, where the API server rejects its own address as an endpoint."""
        return {
            "bind-address": "127.0.0.1",
            "endpoint-reconciler-type": "none",
            "disable-admission-plugins": self.disabled_admission,
        }

    def _launch(self, binary: Path, flags: Flags, environment: Mapping[str, str] | None = None) -> Program:
        command: list[str | Path] = [binary, *(f"--{name}={value}" for name, value in flags.items())]
        program = self._program(binary.name, command, environment or {})
        self.programs[program.name] = program
        program.start()
        return program

    def _program(self, name: str, command: list[str | Path], environment: Mapping[str, str]) -> Program:
        """Return the program to start. `Node` overrides this to start it inside its namespaces."""
        return Program(name, command, self.directory, environment)

    def _is_ready(self) -> bool:
        try:
            self.request("GET", "/readyz")
        except (OSError, http.client.HTTPException, BenchError):
            return False
        return True

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace and its objects, as the namespace controller would. No controller runs here."""
        empty_namespace(self, name)
        path = f"/api/v1/namespaces/{name}"
        self.request("DELETE", path)
        namespace = self.request("GET", path)
        namespace["spec"]["finalizers"] = []
        self.request("PUT", f"{path}/finalize", namespace)

    def request(
        self, method: str, path: str, body: Any = None, accept: str = "application/json", timeout: float = 10
    ) -> Any:
        """Send one request as the administrator, where kubectl has no command or is too slow."""
        connection = http.client.HTTPSConnection(
            self.address, self.port, timeout=timeout, context=ssl.create_default_context(cafile=self.ca)
        )
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": _content_type(method),
            "Accept": accept,
        }
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 400:
            raise ProgramFailed(f"{method} {path} answered {answer.status}: {text[:500]}")
        return json.loads(text) if text.startswith(("{", "[")) else text


def _content_type(method: str) -> str:
    return "application/merge-patch+json" if method == "PATCH" else "application/json"
