"""Configuration of a node's programs: containerd, kubelet, pod network and DNS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster.credentials import CONTEXT
from tests.cluster.errors import MissingTool
from tests.cluster.images import PAUSE

DNS_SERVICE = "10.96.0.10"
NODE_PODS = "10.244.0.0/24"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
PACKAGES = "runc containernetworking-plugins conntrack iptables iproute2 openssl podman buildah mmdebstrap"

POD_NETWORKING: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": NODE_PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def cni_plugins() -> Path:
    """Return the folder in which this machine's distribution installs the CNI plugins."""
    for folder in CNI_FOLDERS:
        if (folder / "bridge").exists():
            return folder
    raise MissingTool(f"a node needs the CNI plugins: apt-get install {PACKAGES}")


def containerd_config(directory: Path, cni: Path) -> str:
    return f"""
version = 3
root = "{directory}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins.'io.containerd.internal.v1.opt']
  path = "{directory}/opt"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{cni_plugins()}"]
  conf_dir = "{cni}"
"""


def kubelet_config(directory: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "podLogsDir": f"{directory}/pod-logs",
        "volumePluginDir": f"{directory}/volume-plugins",
        # Pods must run on any machine, whatever its control groups, swap and disk usage.
        "cgroupRoot": f"/{directory.name}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": ["none"],
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        # A deleted image could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
    }


def corefile(address: str, kubeconfig: Path) -> str:
    """Return CoreDNS's configuration. CoreDNS resolves only names of the cluster and forwards nothing."""
    return f"""
.:53 {{
  errors
  bind {address}
  cache 5
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig} {CONTEXT}
  }}
}}
"""


def dns_service(address: str) -> list[dict[str, Any]]:
    name, ports = "kube-dns", [("dns", "UDP"), ("dns-tcp", "TCP")]
    numbered = [{"name": port, "port": 53, "protocol": protocol} for port, protocol in ports]
    labels = {"kubernetes.io/service-name": name}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_SERVICE, "ports": numbered},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-node", "namespace": "kube-system", "labels": labels},
            "addressType": "IPv4",
            "ports": numbered,
            "endpoints": [{"addresses": [address]}],
        },
    ]
