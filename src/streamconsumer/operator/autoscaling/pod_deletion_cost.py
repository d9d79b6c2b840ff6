"""Which pods go first when there are to be fewer: those that hold nothing. Pure.

A ReplicaSet deletes pods of a lower `controller.kubernetes.io/pod-deletion-cost` before others. A pod in the middle of
a long message holds an entry, and goes last; whatever goes still drains.
"""

from collections.abc import Mapping, Sequence

from streamconsumer.operator.manifests import Manifest

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
MAX_COST = 2**31 - 1
"""Of a 32-bit number, as which Kubernetes reads it."""


def deletion_costs(pods: Sequence[Manifest], pending_by_pod: Mapping[str, int]) -> dict[str, int]:
    """What to write at which pod: how many entries it holds, where it says something else. `holding` is by the names of
    consumers, which are those of pods."""
    found = {}
    for pod in pods:
        name, cost = pod["metadata"]["name"], min(pending_by_pod.get(pod["metadata"]["name"], 0), MAX_COST)
        written = pod["metadata"].get("annotations", {}).get(ANNOTATION, "0")
        if written != str(cost) and not pod["metadata"].get("deletionTimestamp"):
            found[name] = cost
    return found
