"""Pod deletion costs, so that scaling down deletes idle pods first. The functions have no side effects.

A ReplicaSet first deletes the pods with the lowest `controller.kubernetes.io/pod-deletion-cost`. A pod that handles a
long message has a pending entry and is deleted last. Every deleted pod drains before it ends.
"""

from collections.abc import Mapping, Sequence

from streamconsumer.model import names
from streamconsumer.operator.manifests import Manifest

MAX_COST = 2**31 - 1
"""Maximum pod deletion cost. The limit is needed because Kubernetes parses the cost as a signed 32-bit integer."""


def deletion_costs(pods: Sequence[Manifest], pending_by_pod: Mapping[str, int]) -> dict[str, int]:
    """Return the new cost of each pod whose cost annotation differs from the pod's number of pending entries.

    The keys of `pending_by_pod` are consumer names, which equal pod names. Pods that are being deleted are excluded."""
    costs = {}
    for pod in pods:
        metadata = pod["metadata"]
        cost = min(pending_by_pod.get(metadata["name"], 0), MAX_COST)
        annotated = metadata.get("annotations", {}).get(names.ANNOTATION_DELETION_COST, "0")
        if annotated != str(cost) and not metadata.get("deletionTimestamp"):
            costs[metadata["name"]] = cost
    return costs
