"""Where pods run and how they are replaced. What a StreamConsumer does not say is not stated: a field that a newer
operator knows changes no pod of an older one."""

import math
from typing import Any

from streamconsumer.model.pod_settings import Rollout
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, int_or_percent, selector


def scheduling(consumer: StreamConsumer) -> Manifest:
    """Fields of the pod."""
    spec = consumer.spec
    return non_empty(
        nodeSelector=spec.node_selector,
        tolerations=[each.model_dump(by_alias=True, exclude_none=True) for each in spec.tolerations],
        topologySpreadConstraints=[
            {
                **each.model_dump(by_alias=True),
                "labelSelector": {"matchLabels": selector(consumer)},
                "matchLabelKeys": ["pod-template-hash"],  # pods that are about to go weigh nothing
            }
            for each in spec.topology_spread_constraints
        ],
        priorityClassName=spec.priority_class_name,
        runtimeClassName=spec.runtime_class_name,
        imagePullSecrets=[each.model_dump() for each in spec.image_pull_secrets],
    )


def rollout(settings: Rollout) -> Manifest:
    """Fields of the Deployment."""
    pace = {"maxUnavailable": settings.max_unavailable, "maxSurge": settings.max_surge}
    given = {name: int_or_percent(value) for name, value in pace.items() if value is not None}
    return non_empty(
        strategy={"type": "RollingUpdate", "rollingUpdate": given} if given else None,
        progressDeadlineSeconds=math.ceil(settings.progress_deadline.total_seconds())
        if settings.progress_deadline
        else None,
    )


def non_empty(**fields: Any) -> Manifest:
    """Those of the fields that say something."""
    return {name: value for name, value in fields.items() if value}
