"""What the variables of pods come from, as a hash that stands on the pods.

A container keeps the variables that it was started with. When a Secret or ConfigMap that they refer to has changed, the
hash is another one, and the pods are replaced. We look whenever the StreamConsumer is reconciled, the resync included,
and watch neither: to be told of some would mean to be told of all.

The hash is keyed with the object's uid, which nobody knows who may not read a Secret: the plain hash of a short
password, on a pod that more people may look at, could be guessed.
"""

import hashlib
import hmac
import json
from typing import Protocol

from streamconsumer.errors import PermissionDenied
from streamconsumer.model.spec import StreamConsumer, StreamConsumerSpec
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.metadata import digest

Reference = tuple[str, str]
"""The kind and the name."""


class ConfigReader(Protocol):
    """The part of `Cluster` that is needed."""

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None: ...


async def referenced_config_hash(consumer: StreamConsumer, kube: ConfigReader) -> str:
    """The hash of everything that the variables refer to and that we may read; empty where that is nothing."""
    found = {}
    for (kind, name), keys in sorted(_references(consumer.spec).items()):
        try:
            found[f"{kind}/{name}"] = _hmac(await kube.get_config_object(kind, consumer.namespace, name), keys)
        except PermissionDenied:
            continue
    return digest(found) if found else ""


def _references(spec: StreamConsumerSpec) -> dict[Reference, set[str] | None]:
    """Each Secret and ConfigMap with the keys that count; None: all."""
    found: dict[Reference, set[str] | None] = {}
    for variable in spec.env:
        if given := variable.value_from:
            for kind, key in (("Secret", given.secret_key_ref), ("ConfigMap", given.config_map_key_ref)):
                if key:
                    found[kind, key.name] = (found.get((kind, key.name)) or set()) | {key.key}
    for source in spec.env_from:
        for kind, whole in (("Secret", source.secret_ref), ("ConfigMap", source.config_map_ref)):
            if whole:
                found[kind, whole.name] = None
    return found


def _hmac(live: Manifest | None, keys: set[str] | None) -> str:
    if live is None:
        return ""
    data = {**live.get("data", {}), **live.get("binaryData", {})}
    counts = {key: value for key, value in data.items() if keys is None or key in keys}
    text = json.dumps(counts, sort_keys=True)
    return hmac.new(live["metadata"]["uid"].encode(), text.encode(), hashlib.sha256).hexdigest()
