"""Names, labels, owner references and hashes of children."""

import hashlib
import json
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer

Manifest = dict[str, Any]


def child_name(consumer: StreamConsumer) -> str:
    """Return the name of the Deployment and the other children.

    The suffix avoids a conflict with an existing Deployment that has the StreamConsumer's name."""
    return f"{consumer.name}-consumer"


def selector(consumer: StreamConsumer) -> dict[str, str]:
    """Return the labels that select the pods.

    A Deployment's selector is immutable, so it contains nothing that a user may change."""
    return {names.LABEL_CONSUMER: consumer.name}


def labels(consumer: StreamConsumer) -> dict[str, str]:
    """Return the labels of every child and of the pods."""
    return {
        **selector(consumer),
        "app.kubernetes.io/name": "streamconsumer-processor",
        "app.kubernetes.io/instance": consumer.name,
        "app.kubernetes.io/component": "processor",
        "app.kubernetes.io/part-of": "streamconsumer",
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
    }


def metadata(consumer: StreamConsumer, name: str) -> Manifest:
    """Build the metadata of a child. Its owner reference lets Kubernetes delete it together with its StreamConsumer."""
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": consumer.name,
        "uid": consumer.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": name,
        "namespace": consumer.namespace,
        "labels": labels(consumer),
        **({"ownerReferences": [owner]} if consumer.uid else {}),  # a manifest that was never applied has no uid
    }


def owned_by(uid: str, child: Manifest) -> bool:
    """Return True if the StreamConsumer of this uid owns the child.

    Labels prove nothing: a user may have copied them."""
    return any(owner.get("uid") == uid for owner in child["metadata"].get("ownerReferences", []))


def int_or_percent(text: str) -> int | str:
    """Convert `2` to the number that Kubernetes expects; return `25%` unchanged."""
    return int(text) if text.isdecimal() else text


def digest(value: object) -> str:
    """Return a short hash that is the same for equal JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_applied_hash(manifest: Manifest) -> Manifest:
    """Return the manifest with its own hash as an annotation, which shows cheaply if the last applied one was equal."""
    annotations = {**manifest["metadata"].get("annotations", {}), names.ANNOTATION_APPLIED: digest(manifest)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
