"""The ConfigMap that carries `handler.source`, or none."""

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.identity import Manifest, child_name, metadata


def source(consumer: StreamConsumer) -> Manifest | None:
    if consumer.spec.handler.source is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(consumer, child_name(consumer)),
        "data": {f"{names.SOURCE_MODULE}.py": consumer.spec.handler.source},
    }
