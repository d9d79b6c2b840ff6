"""Where pods run and how they are replaced. What a StreamConsumer does not say is not stated: a field that a newer
operator knows changes no pod of an older one."""

import math
from typing import Any

from streamconsumer.model.pod_settings import Rollout
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, amount, selector


def placement(consumer: StreamConsumer) -> Manifest:
    """Fields of the pod."""
    spec = consumer.spec
    return stated(
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


def rollout(said: Rollout) -> Manifest:
    """Fields of the Deployment."""
    pace = {"maxUnavailable": said.max_unavailable, "maxSurge": said.max_surge}
    given = {name: amount(value) for name, value in pace.items() if value is not None}
    return stated(
        strategy={"type": "RollingUpdate", "rollingUpdate": given} if given else None,
        progressDeadlineSeconds=math.ceil(said.progress_deadline.total_seconds()) if said.progress_deadline else None,
    )


def stated(**fields: Any) -> Manifest:
    """Those of the fields that say something."""
    return {name: value for name, value in fields.items() if value}
