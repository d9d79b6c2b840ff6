"""Minimal StreamConsumer manifests for tests, with optional changes."""

import json
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer

Manifest = dict[str, Any]

UID = "3c1d7f0a-6f0e-4b8e-9d3c-0a1b2c3d4e5f"


def manifest(name: str = "orders", namespace: str = "shop", **spec: Any) -> Manifest:
    """Return a minimal manifest. Keyword arguments replace fields of the spec; `...` removes a field."""
    minimal = {
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
        "spec": {key: value for key, value in {**minimal, **spec}.items() if value is not ...},
    }


def stored(original: Manifest, uid: str = UID, generation: int = 1) -> Manifest:
    """Return the manifest as the API server returns it, with a uid and a generation."""
    metadata = {**original["metadata"], "uid": uid, "generation": generation, "resourceVersion": "1"}
    copied: Manifest = json.loads(json.dumps({**original, "metadata": metadata}))
    return copied


def consumer(name: str = "orders", namespace: str = "shop", **spec: Any) -> StreamConsumer:
    """Return a parsed StreamConsumer, as if it came from the API server. Arguments as for `manifest`."""
    return StreamConsumer.parse(stored(manifest(name, namespace, **spec)))
