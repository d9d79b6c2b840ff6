"""Enforcement of NetworkPolicies on a node. A node does not enforce them unless a test asks for it."""

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

# Selects the first packet of each connection between pods, and from a pod to the node, which runs the API server and
# the DNS server. Probes of the kubelet come from the node itself and pass, as on every cluster. The hooks run after
# DNAT, because policies select pods and not Services.
CHAINS = (("FORWARD",), ("INPUT", "--in-interface", "cni0"))


@contextmanager
def enforce_network_policies(node: Node) -> Iterator[None]:
    """Drop all connections that the NetworkPolicies of a pod do not allow, until the context ends."""
    command = (find("network-policies"), f"--kubeconfig={node.kubeconfig}", f"--hostname-override={node.node_name}")
    inside = node.inside(*command, f"--nfqueue-id={QUEUE}")
    program = Program("network-policies", inside, node.directory, in_namespaces=True)
    program.start()
    try:
        program.wait_until(lambda: _is_listening(node), TIMEOUT_SECONDS)
        _change_iptables(node, "--insert")
        yield
        if not program.is_running:
            raise program.failure("ended; all connections were dropped since then")
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
