"""PodDisruptionBudget: by default, node drains evict one pod at a time.

A StreamConsumer with a single pod has no PodDisruptionBudget, because the budget would either have no effect or block
the drain."""

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, child_name, int_or_percent, metadata, selector


def pod_disruption_budget(consumer: StreamConsumer) -> Manifest | None:
    scaling = consumer.spec.autoscaling
    pods = scaling.max_replicas if scaling else consumer.spec.replicas
    if pods <= 1:
        return None
    max_unavailable = consumer.spec.pod_disruption_budget.max_unavailable
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(consumer, child_name(consumer)),
        "spec": {
            "maxUnavailable": int_or_percent(max_unavailable) if max_unavailable else 1,
            "selector": {"matchLabels": selector(consumer)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",  # a pod that is not ready must not block a node drain
        },
    }
