"""Manifests of StreamConsumers and Secrets as users write them."""

from pathlib import Path
from typing import Any

import yaml


def consumer(name: str = "orders", **spec: Any) -> dict[str, Any]:
    """Return the smallest StreamConsumer, changed by `spec`. No server listens on port 1."""
    smallest = {
        "redis": {"url": "redis://127.0.0.1:1/0"},
        "stream": "orders",
        "consumerGroup": "billing",
        "handler": {"python": "orders:handle"},
    }
    return {
        "apiVersion": "streamconsumer.dev/v1alpha1",
        "kind": "StreamConsumer",
        "metadata": {"name": name},
        "spec": smallest | spec,
    }


def secret(name: str, **texts: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": texts}


def write_documents(folder: Path, *documents: dict[str, Any]) -> Path:
    """Write the documents to a file in the folder and return its path."""
    path = folder / "consumer.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path
