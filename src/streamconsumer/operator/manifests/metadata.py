"""How children are named, labelled, owned and told apart."""

import hashlib
import json
from typing import Any

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer

Manifest = dict[str, Any]


def child_name(consumer: StreamConsumer) -> str:
    """The name of the Deployment and what belongs to it. The suffix keeps clear of an `orders` that already runs."""
    return f"{consumer.name}-consumer"


def selector(consumer: StreamConsumer) -> dict[str, str]:
    """The labels that pods are found by. Immutable in a Deployment, so nothing a user may change stands here."""
    return {names.LABEL_CONSUMER: consumer.name}


def labels(consumer: StreamConsumer) -> dict[str, str]:
    """The labels of every child and of the pods."""
    return {
        **selector(consumer),
        "app.kubernetes.io/name": "streamconsumer-processor",
        "app.kubernetes.io/instance": consumer.name,
        "app.kubernetes.io/component": "processor",
        "app.kubernetes.io/part-of": "streamconsumer",
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
    }


def metadata(consumer: StreamConsumer, name: str) -> Manifest:
    """The metadata of a child: its owner reference lets Kubernetes delete it with its StreamConsumer."""
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
        **({"ownerReferences": [owner]} if consumer.uid else {}),  # a file that was never applied has no uid
    }


def owned_by(uid: str, child: Manifest) -> bool:
    """Whether it belongs to the StreamConsumer of this uid. Labels alone say nothing: somebody may have copied them."""
    return any(owner.get("uid") == uid for owner in child["metadata"].get("ownerReferences", []))


def int_or_percent(text: str) -> int | str:
    """`2` as the number that Kubernetes wants, `25%` as it is."""
    return int(text) if text.isdecimal() else text


def digest(value: object) -> str:
    """A short hash that is the same for equal JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_applied_hash(manifest: Manifest) -> Manifest:
    """The manifest with its own hash as an annotation: the cheap answer to "is this what we applied last?"."""
    annotations = {**manifest["metadata"].get("annotations", {}), names.ANNOTATION_APPLIED: digest(manifest)}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
