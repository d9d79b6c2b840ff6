"""The ConfigMap that carries `handler.source`, or none.

Its name holds the hash of the source, so editing the source makes another one and rolls the pods. Under one name a new
pod could still be given the old text: a kubelet that has the ConfigMap of a running pod may answer from its memory.
"""

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, child_name, digest, metadata


def source_config_map(consumer: StreamConsumer) -> Manifest | None:
    text = consumer.spec.handler.source
    if text is None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(consumer, source_name(consumer, text)),
        "data": {f"{names.SOURCE_MODULE}.py": text},
    }


def source_name(consumer: StreamConsumer, text: str) -> str:
    return f"{child_name(consumer)}-{digest(text)}"
