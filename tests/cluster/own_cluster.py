"""A developer's own cluster (kind, k3s, anything), used where KUBECONFIG names one."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster.clusters import Cluster
from tests.cluster.errors import MissingTool
from tests.cluster.node import Node
from tests.cluster.runs import runs_directory

IMAGES = "STREAMCONSUMER_TEST_IMAGES"


class OwnCluster(Cluster):
    """Somebody else's cluster: the bench only speaks to it."""

    @classmethod
    def from_environment(cls) -> OwnCluster | None:
        named = os.environ.get("KUBECONFIG")
        return cls(Path(named)) if named else None

    def load_image(self, reference: str) -> None:
        """The bench cannot load images there, so somebody must have done so and say it."""
        if os.environ.get(IMAGES) != "loaded":
            raise MissingTool(
                f"KUBECONFIG names a cluster of your own, and the bench cannot load {reference} into "
                f"it: load it (such as `kind load docker-image {reference}`), then set {IMAGES}=loaded"
            )

    def container_pid(self, namespace: str, pod: str, container: str | None = None) -> int:
        raise MissingTool(
            f"the process of {container or 'a container'} in {namespace}/{pod} runs on a machine of your "
            "own cluster, not here: unset KUBECONFIG to run this test on the bench's own node"
        )

    def kill_container(self, namespace: str, pod: str, container: str | None = None) -> None:
        self.container_pid(namespace, pod, container)


def named_cluster() -> Node | OwnCluster | None:
    """The cluster that KUBECONFIG names; of a node that the bench keeps up, more is known."""
    own = OwnCluster.from_environment()
    if own and own.kubeconfig == runs_directory() / Node.kind / "kubeconfig":
        return Node.kept()
    return own
