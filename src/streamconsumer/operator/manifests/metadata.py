"""Names, labels, owner references and hashes of children."""

import hashlib
import json
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer

Manifest = dict[str, Any]


def child_name(consumer: StreamConsumer) -> str:
    """Return the name of all children except the ConfigMap. The name of the ConfigMap starts with this name.

    The suffix `-consumer` avoids a conflict with an existing Deployment that has the StreamConsumer's name."""
    return f"{consumer.name}-consumer"


def selector(consumer: StreamConsumer) -> dict[str, str]:
    """Return the labels that select the pods.

    A Deployment's selector is immutable, so the labels contain no value that a user may change."""
    return {names.LABEL_CONSUMER: consumer.name}


def labels(consumer: StreamConsumer) -> dict[str, str]:
    """Return the labels that every child and every pod has."""
    return {
        **selector(consumer),
        "app.kubernetes.io/name": "streamconsumer-processor",
        "app.kubernetes.io/instance": consumer.name,
        "app.kubernetes.io/component": "processor",
        "app.kubernetes.io/part-of": "streamconsumer",
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
    }


def metadata(consumer: StreamConsumer, name: str) -> Manifest:
    """Build the metadata of a child. The owner reference makes Kubernetes delete the child together with its
    StreamConsumer."""
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
        **({"ownerReferences": [owner]} if consumer.uid else {}),  # a StreamConsumer that was never applied has no uid
    }


def owned_by(uid: str, child: Manifest) -> bool:
    """Return True if the StreamConsumer with this uid owns the child.

    Ownership depends on the owner references, not on the labels, because a user may have copied the labels to another
    object."""
    return any(owner.get("uid") == uid for owner in child["metadata"].get("ownerReferences", []))


def int_or_percent(text: str) -> int | str:
    """Convert `2` to an integer, as Kubernetes expects, and return `25%` unchanged."""
    return int(text) if text.isdecimal() else text


def digest(value: object) -> str:
    """Return a short hash of the value. Values with equal JSON have the same hash."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_applied_hash(manifest: Manifest) -> Manifest:
    """Return the manifest with an annotation that contains the hash of the manifest. If the annotation of the live
    object contains the same hash, the last manifest that the operator applied was the same."""
    annotations = {**manifest["metadata"].get("annotations", {}), names.ANNOTATION_APPLIED: digest(manifest)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
