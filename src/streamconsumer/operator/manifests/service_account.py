"""ServiceAccount of the pods: an identity without permissions in Kubernetes, whose token is never mounted."""

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, child_name, metadata
from streamconsumer.operator.manifests.scheduling import non_empty


def service_account(consumer: StreamConsumer) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            **metadata(consumer, child_name(consumer)),
            **non_empty(annotations=consumer.spec.service_account_annotations),
        },
        "automountServiceAccountToken": False,
    }
