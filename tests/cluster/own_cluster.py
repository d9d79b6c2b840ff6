"""A developer's own cluster (kind, k3s, any other), used if KUBECONFIG is set."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster.binaries import FOR_ANY_CLUSTER, TARGETS
from tests.cluster.clusters import Cluster
from tests.cluster.errors import MissingTool
from tests.cluster.node import Node
from tests.cluster.runs import runs_directory

IMAGES = "STREAMCONSUMER_TEST_IMAGES"


class OwnCluster(Cluster):
    """A cluster that the bench uses but did not start."""

    @classmethod
    def from_environment(cls) -> OwnCluster | None:
        named = os.environ.get("KUBECONFIG")
        return cls(Path(named)) if named else None

    def load_image(self, reference: str) -> None:
        """Check that the developer has loaded the images. The bench cannot load them into this cluster."""
        if os.environ.get(IMAGES) != "loaded":
            raise MissingTool(
                f"KUBECONFIG names your own cluster, and the bench cannot load {reference} into it; "
                f"load it (for example with `kind load docker-image {reference}`) and set {IMAGES}=loaded"
            )

    def container_pid(self, namespace: str, pod: str, container: str | None = None) -> int:
        raise MissingTool(
            f"the process of {container or 'a container'} in {namespace}/{pod} runs on a machine of your own cluster; "
            "unset KUBECONFIG to run this test on the bench's own node"
        )

    def kill_container(self, namespace: str, pod: str, container: str | None = None) -> None:
        self.container_pid(namespace, pod, container)


def programs_for(target: str) -> tuple[str, ...]:
    """Return the programs that a make target needs on this machine: fewer for `e2e` if KUBECONFIG names a cluster."""
    return FOR_ANY_CLUSTER if target == "e2e" and OwnCluster.from_environment() else TARGETS[target]


def named_cluster() -> Node | OwnCluster | None:
    """Return the cluster that KUBECONFIG names: a `Node` if the bench started it, else an `OwnCluster`."""
    own = OwnCluster.from_environment()
    if own and own.kubeconfig == runs_directory() / Node.kind / "kubeconfig":
        return Node.kept()
    return own
