"""What a StreamConsumer becomes: spec in, manifests out, one noun a file. Pure: no client, no clock, no logger."""

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.deployment import deployment
from streamconsumer.operator.manifests.metadata import Manifest, with_applied_hash
from streamconsumer.operator.manifests.pod_disruption_budget import pod_disruption_budget
from streamconsumer.operator.manifests.service_account import service_account
from streamconsumer.operator.manifests.source_config_map import source_config_map
from streamconsumer.operator.settings import OperatorSettings

__all__ = ["CHILD_KINDS", "Manifest", "desired"]

CHILD_KINDS = [
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("apps/v1", "Deployment"),
    ("policy/v1", "PodDisruptionBudget"),
]
"""Every kind that can be a child, in the order in which they are applied: what others refer to comes first."""


def desired(consumer: StreamConsumer, settings: OperatorSettings, config_hash: str = "") -> list[Manifest]:
    """All children, in the order in which they are applied, each stamped with the hash of itself. `references` is the
    hash of what the variables of the pods refer to."""
    wanted = [
        service_account(consumer),
        source_config_map(consumer),
        deployment(consumer, settings, config_hash),
        pod_disruption_budget(consumer),
    ]
    return [with_applied_hash(manifest) for manifest in wanted if manifest is not None]
