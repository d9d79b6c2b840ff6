"""The complete cluster: a node that runs pods, in its own Linux namespaces.

The first process of a new PID namespace owns a network, a mount and a PID namespace. All other programs start inside
them. Killing this process ends all the others, pods included, and the kernel removes mounts, network and interfaces.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.cluster import cgroups, images
from tests.cluster.api_server import START_TIMEOUT, Flags
from tests.cluster.binaries import find
from tests.cluster.control_plane import POD_NETWORK, ControlPlane
from tests.cluster.credentials import ADMIN, KUBELET, NODE_NAME, PROXY
from tests.cluster.errors import BenchError, MissingTool, ProgramFailed
from tests.cluster.node_configuration import (
    CONTAINERD_SOCKET,
    PACKAGES,
    POD_NETWORKING,
    cni_plugins,
    containerd_config,
    corefile,
    dns_service,
    kubelet_config,
)
from tests.cluster.processes import Program, only_child
from tests.cluster.runs import Run, record_process, recorded_pid, wait_until

PROGRAMS = ("runc", "conntrack", "iptables", "ip", "nsenter", "unshare", "openssl", "podman", "buildah")
NETWORKS = range(1, 250)

# Programs write to these folders regardless of their configuration. On a node they see an empty folder instead.
PRIVATE_FOLDERS = ("/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni")


class Node(ControlPlane):
    """A control plane with containerd, kubelet, kube-proxy and CoreDNS. Needs root."""

    kind = "node"
    node_name = NODE_NAME

    def __init__(self, keep: bool = False) -> None:
        super().__init__(keep)
        self._loaded: dict[str, str] = {}

    @classmethod
    def kept(cls) -> Node:
        """Return the node that `python -m tests.cluster up --size node` started."""
        node = cls(keep=True)
        node._run = Run.kept(cls.kind)
        node.kubeconfig = node.directory / "kubeconfig"
        node.address = (node.directory / "address").read_text()
        return node

    # -- for tests -------------------------------------------------------------------------------

    def load_image(self, reference: str) -> None:
        """Copy an image from this machine's podman into the node. Pods must not use `imagePullPolicy: Always`."""
        identity = images.identity(reference)
        if self._loaded.get(reference) == identity:
            return
        save = ["podman", "save", "--quiet", "--format=docker-archive", images.full_reference(reference)]
        with subprocess.Popen(save, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saving:
            imported = self._containerd("images", "import", "-", stdin=saving.stdout)
            output = imported.stderr + (saving.stderr.read() if saving.stderr else b"")
        if saving.returncode or imported.returncode:
            raise BenchError(f"loading {reference} into the node failed: {output.decode()[-2000:]}")
        self._loaded[reference] = identity

    def inside(self, *command: str | Path) -> list[str | Path]:
        """Return the command line that runs a program of this machine inside the node's namespaces."""
        return ["nsenter", f"--target={self.first_pid}", "--net", "--mount", "--pid", "--", *command]

    def container_pid(self, namespace: str, pod: str, container: str | None = None) -> int:
        """Return the pid of the container's first process on this machine."""
        identity = self._container_id(namespace, pod, container)
        for pid, numbers in _processes_of(identity):
            if numbers[-1] == "1":
                return pid
        raise ProgramFailed(f"no process of {namespace}/{pod} runs here: wait until it is Running")

    def kill_container(self, namespace: str, pod: str, container: str | None = None) -> None:
        """Kill the container's first process with SIGKILL: no signal handler, no preStop, no grace period."""
        os.kill(self.container_pid(namespace, pod, container), signal.SIGKILL)

    @property
    def first_pid(self) -> int:
        """The process that owns the node's namespaces."""
        pid = recorded_pid(self.directory / "first.pid")
        if pid is None:
            raise ProgramFailed("the node's first process is gone: start the node again")
        return pid

    def _container_id(self, namespace: str, pod: str, container: str | None) -> str:
        statuses = self.get("pod", pod, "--namespace", namespace)["status"].get("containerStatuses", [])
        for status in statuses:
            if container in (None, status["name"]) and status.get("containerID"):
                return str(status["containerID"]).removeprefix("containerd://")
        raise ProgramFailed(f"pod {namespace}/{pod} has no container {container or ''} yet: wait for it")

    def _containerd(self, *arguments: str, stdin: Any = None) -> subprocess.CompletedProcess[bytes]:
        client = self.inside(find("ctr"), "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io")
        return subprocess.run([*client, *arguments], stdin=stdin, capture_output=True, check=False)

    # -- start -----------------------------------------------------------------------------------

    def _start(self) -> None:
        _check_machine()
        nodes_own = [find(name) for name in ("containerd", "kubelet", "kube-proxy", "coredns", "ctr")]
        pause = images.pause()
        self._open_namespaces()
        containerd, kubelet, proxy, coredns, _ = nodes_own
        self._start_containerd(containerd)
        super()._start()
        self._start_kubelet(kubelet)
        self._start_proxy(proxy)
        self._start_dns(coredns)
        self.load_image(pause)

    def _ports(self) -> tuple[int, int, int]:
        return 2379, 2380, 6443

    def _serving_flags(self) -> Flags:
        # Without this, `kubectl logs` resolves the node's name in a DNS that does not contain it.
        return {"kubelet-preferred-address-types": "InternalIP"}

    def _program(self, name: str, command: list[str | Path], environment: Mapping[str, str]) -> Program:
        return Program(name, self.inside(*command), self.directory, environment, in_namespaces=True)

    def _open_namespaces(self) -> None:
        cgroups.create(self.directory.name)
        folders = " ".join(PRIVATE_FOLDERS)
        script = f"mkdir -p {folders} && for f in {folders}; do mount -t tmpfs tmpfs $f; done && exec $0"
        namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        first = ("--propagation=private", "sh", "-ec", script, str(find("pause")))
        program = Program("namespaces", ["unshare", *namespaces, *first], self.directory)
        self.programs[program.name] = program
        program.start()
        program.wait_until(lambda: _runs_program("pause", only_child(program.pid)), START_TIMEOUT)
        record_process(self.directory / "first.pid", only_child(program.pid))
        self._connect()

    def _connect(self) -> None:
        """Connect this machine and the node by a pair of interfaces, on a network that is not in use."""
        for number in NETWORKS:
            outer = f"scnode{number}"
            pair = ("type", "veth", "peer", "name", "eth0", "netns", str(self.first_pid))
            if _ip("link", "add", outer, *pair):
                break
        else:
            raise ProgramFailed("every network from 10.98.1.0 to 10.98.249.0 is in use by a node: stop some")
        gateway, self.address = f"10.98.{number}.1", f"10.98.{number}.2"
        (self.directory / "address").write_text(self.address)
        _ip("addr", "add", f"{gateway}/24", "dev", outer)
        _ip("link", "set", outer, "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", gateway),
        ):
            subprocess.run(self.inside("ip", *command), check=True)

    def _start_containerd(self, binary: Path) -> None:
        cni = self.directory / "cni"
        cni.mkdir()
        (cni / "10-pods.conflist").write_text(json.dumps(POD_NETWORKING))
        config = self.directory / "containerd.toml"
        config.write_text(containerd_config(self.directory, cni))
        shim = find("containerd-shim-runc-v2").parent
        self._launch(binary, {"config": config}, {"PATH": f"{shim}:{os.environ['PATH']}"})

    def _start_kubelet(self, binary: Path) -> None:
        config = self.directory / "kubelet.json"
        config.write_text(json.dumps(kubelet_config(self.directory)))
        flags: Flags = {
            "config": config,
            "kubeconfig": self._kubeconfig_for(KUBELET, "kubelet"),
            "hostname-override": NODE_NAME,
            "node-ip": self.address,
            "root-dir": self.directory / "kubelet",
            "cert-dir": self.directory / "kubelet-pki",
        }
        self._launch(binary, flags)

    def _start_proxy(self, binary: Path) -> None:
        flags: Flags = {
            "kubeconfig": self._kubeconfig_for(PROXY, "proxy"),
            "hostname-override": NODE_NAME,
            "proxy-mode": "iptables",
            # Update Services immediately. Large clusters collect changes for a second.
            "iptables-min-sync-period": "100ms",
            "cluster-cidr": POD_NETWORK,
            # Other values would change the connection tracking of the machine, not of the node.
            "conntrack-max-per-core": "0",
            "conntrack-tcp-timeout-established": "0s",
            "conntrack-tcp-timeout-close-wait": "0s",
        }
        self._launch(binary, flags)

    def _start_dns(self, binary: Path) -> None:
        """Start CoreDNS as a process of the node, behind the Service that pods use as their DNS server."""
        written = self.directory / "Corefile"
        written.write_text(corefile(self.address, self._kubeconfig_for(ADMIN, "dns")))
        self._launch(binary, {"conf": written})
        self.apply(*dns_service(self.address))

    def _wait(self) -> None:
        super()._wait()
        if not wait_until(self._node_is_ready, START_TIMEOUT, pause=0.1):
            raise self.programs["kubelet"].failure("did not bring the node to Ready")

    def _node_is_ready(self) -> bool:
        try:
            status = self.request("GET", f"/api/v1/nodes/{NODE_NAME}").get("status", {})
        except (OSError, BenchError):
            return False
        return any(each["type"] == "Ready" and each["status"] == "True" for each in status["conditions"])


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise MissingTool(
            "a node needs root for its namespaces and this is user "
            f"{os.geteuid()}: run as root, or point KUBECONFIG at a cluster of your own"
        )
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        raise MissingTool(f"a node needs {', '.join(missing)}: apt-get install {PACKAGES}")
    cni_plugins()


def _runs_program(name: str, pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == name
    except FileNotFoundError:
        return False


def _processes_of(container: str) -> Iterator[tuple[int, list[str]]]:
    """Return the processes in the container's control group, each with its pid in every namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if container not in (process / "cgroup").read_text():
                continue
            status = (process / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        yield int(process.name), numbers.split()[1:]


def _ip(*arguments: str) -> bool:
    """Run ip. Returns False if it failed, for instance because a name or address is in use."""
    return not subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode
