"""NetworkPolicies that hold. The node has nothing that enforces them, so that no test depends on it unasked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.binaries import find
from tests.cluster.node import Node
from tests.cluster.processes import Program

QUEUE = 100
TIMEOUT_SECONDS = 20.0

# Each first packet of a connection: between pods, and from a pod to the node, where API server and name server are. The
# kubelet's probes come from the node itself and are let through, as everywhere. After DNAT: policies speak of pods.
CHAINS = (("FORWARD",), ("INPUT", "--in-interface", "cni0"))


@contextmanager
def enforce_network_policies(node: Node) -> Iterator[None]:
    """While this lasts, what no NetworkPolicy of a pod allows is dropped without an answer."""
    command = (find("network-policies"), f"--kubeconfig={node.kubeconfig}", f"--hostname-override={node.node_name}")
    inside = node.inside(*command, f"--nfqueue-id={QUEUE}")
    program = Program("network-policies", inside, node.directory, in_namespaces=True)
    program.start()
    try:
        program.wait_until(lambda: _is_listening(node), TIMEOUT_SECONDS)
        _change_iptables(node, "--insert")
        yield
        if not program.is_running:
            raise program.failure("ended: since then everything was dropped")
    finally:
        _change_iptables(node, "--delete")
        program.stop()


def _is_listening(node: Node) -> bool:
    queues = Path(f"/proc/{node.first_pid}/net/netfilter/nfnetlink_queue").read_text()
    return str(QUEUE) in {line.split()[0] for line in queues.splitlines()}


def _change_iptables(node: Node, verb: str) -> None:
    for chain, *only in CHAINS:
        new = ("--match", "conntrack", "--ctstate", "NEW", "--jump", "NFQUEUE", "--queue-num", str(QUEUE))
        command = node.inside("iptables", "--wait", "--table", "mangle", verb, chain, *only, *new)
        subprocess.run(command, check=verb == "--insert", capture_output=True)
