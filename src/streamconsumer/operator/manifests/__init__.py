"""Manifests of a StreamConsumer's children, which are the objects that the operator creates for a StreamConsumer.

Each module computes the manifest of one kind from the spec. The functions have no side effects.
"""

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.deployment import ReferenceHashes, deployment
from streamconsumer.operator.manifests.metadata import Manifest, with_applied_hash
from streamconsumer.operator.manifests.pod_disruption_budget import pod_disruption_budget
from streamconsumer.operator.manifests.service_account import service_account
from streamconsumer.operator.manifests.source_config_map import source_config_map
from streamconsumer.operator.settings import OperatorSettings

__all__ = ["CHILD_KINDS", "Manifest", "ReferenceHashes", "desired"]

CHILD_KINDS = [
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("apps/v1", "Deployment"),
    ("policy/v1", "PodDisruptionBudget"),
]
"""API version and kind of each child, in the order in which children are applied. A child is applied before the
children that refer to it."""


NO_REFERENCES = ReferenceHashes()


def desired(
    consumer: StreamConsumer, settings: OperatorSettings, references: ReferenceHashes = NO_REFERENCES
) -> list[Manifest]:
    """Build the manifests of all children, in the order in which children are applied. An annotation of each manifest
    contains the hash of the manifest.

    `references` contains the hashes of the Secrets and ConfigMaps that the pods' environment variables refer to."""
    manifests = [
        service_account(consumer),
        source_config_map(consumer),
        deployment(consumer, settings, references),
        pod_disruption_budget(consumer),
    ]
    return [with_applied_hash(manifest) for manifest in manifests if manifest is not None]
