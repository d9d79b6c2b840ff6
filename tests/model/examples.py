"""StreamConsumers for tests: the smallest one, and the smallest with something changed."""

import json
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer

Manifest = dict[str, Any]

UID = "3c1d7f0a-6f0e-4b8e-9d3c-0a1b2c3d4e5f"


def manifest(name: str = "orders", namespace: str = "shop", **spec: Any) -> Manifest:
    """The smallest useful StreamConsumer, with these fields of its spec instead; `...` leaves a field out."""
    smallest = {
        "redis": {"url": "redis://redis:6379/0"},
        "stream": "orders",
        "consumerGroup": "billing",
        "handler": {"python": "shop.orders:handle"},
        "image": "shop:1.4",
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {key: value for key, value in {**smallest, **spec}.items() if value is not ...},
    }


def stored(original: Manifest, uid: str = UID, generation: int = 1) -> Manifest:
    """The manifest as the API server hands it out."""
    metadata = {**original["metadata"], "uid": uid, "generation": generation, "resourceVersion": "1"}
    copied: Manifest = json.loads(json.dumps({**original, "metadata": metadata}))
    return copied


def consumer(name: str = "orders", namespace: str = "shop", **spec: Any) -> StreamConsumer:
    """The same, parsed, as if it had come from the API server."""
    return StreamConsumer.parse(stored(manifest(name, namespace, **spec)))
