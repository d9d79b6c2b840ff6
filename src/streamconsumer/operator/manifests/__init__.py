"""What a StreamConsumer becomes: spec in, manifests out, one noun a file. Pure: no client, no clock, no logger."""

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.deployment import deployment
from streamconsumer.operator.manifests.metadata import Manifest, stamped
from streamconsumer.operator.manifests.pod_disruption_budget import disruption_budget
from streamconsumer.operator.manifests.service_account import service_account
from streamconsumer.operator.manifests.source_config_map import source
from streamconsumer.operator.settings import OperatorSettings

__all__ = ["KINDS", "Manifest", "desired"]

KINDS = [
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("apps/v1", "Deployment"),
    ("policy/v1", "PodDisruptionBudget"),
]
"""Every kind that can be a child, in the order in which they are applied: what others refer to comes first."""


def desired(consumer: StreamConsumer, settings: OperatorSettings, references: str = "") -> list[Manifest]:
    """All children, in the order in which they are applied, each stamped with the hash of itself. `references` is the
    hash of what the variables of the pods refer to."""
    wanted = [
        service_account(consumer),
        source(consumer),
        deployment(consumer, settings, references),
        disruption_budget(consumer),
    ]
    return [stamped(manifest) for manifest in wanted if manifest is not None]
