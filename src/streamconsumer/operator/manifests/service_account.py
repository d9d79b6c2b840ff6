"""ServiceAccount of the pods: an identity without permissions, whose token is never mounted."""

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, child_name, metadata


def service_account(consumer: StreamConsumer) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(consumer, child_name(consumer)),
        "automountServiceAccountToken": False,
    }
