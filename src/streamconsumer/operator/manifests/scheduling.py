"""Scheduling and rollout fields of the Deployment.

Fields that a StreamConsumer does not set are omitted, so that existing pods are not restarted if a newer operator
supports more fields.
"""

import math
from typing import Any

from streamconsumer.model.pod_settings import Rollout
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, int_or_percent, selector


def scheduling(consumer: StreamConsumer) -> Manifest:
    """Build the scheduling fields of the pod."""
    spec = consumer.spec
    return non_empty(
        nodeSelector=spec.node_selector,
        tolerations=[toleration.model_dump(by_alias=True, exclude_none=True) for toleration in spec.tolerations],
        topologySpreadConstraints=[
            {
                **constraint.model_dump(by_alias=True),
                "labelSelector": {"matchLabels": selector(consumer)},
                "matchLabelKeys": ["pod-template-hash"],  # does not count pods of earlier revisions
            }
            for constraint in spec.topology_spread_constraints
        ],
        priorityClassName=spec.priority_class_name,
        runtimeClassName=spec.runtime_class_name,
        imagePullSecrets=[secret.model_dump() for secret in spec.image_pull_secrets],
    )


def rollout(settings: Rollout) -> Manifest:
    """Build the rollout fields of the Deployment."""
    fields = {"maxUnavailable": settings.max_unavailable, "maxSurge": settings.max_surge}
    rolling_update = {name: int_or_percent(value) for name, value in fields.items() if value is not None}
    return non_empty(
        strategy={"type": "RollingUpdate", "rollingUpdate": rolling_update} if rolling_update else None,
        progressDeadlineSeconds=math.ceil(settings.progress_deadline.total_seconds())
        if settings.progress_deadline
        else None,
    )


def non_empty(**fields: Any) -> Manifest:
    """Return the fields that are not empty."""
    return {name: value for name, value in fields.items() if value}
