"""ConfigMap that contains `handler.source`.

The name of the ConfigMap contains the hash of the source, so an edit creates a new ConfigMap and starts a rollout. If
the name were constant, a new pod could get the old source from the kubelet's cache.
"""

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.metadata import Manifest, child_name, digest, metadata

SOURCE_VOLUME = "source"
"""Name of the volume of a pod that mounts the ConfigMap."""


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
