"""The hash of the Secrets and ConfigMaps that the environment variables of the pods refer to.

A container keeps the variables from its start. The pod template has the hash, so a change of a referenced object
replaces the pods. The operator reads these objects in every reconcile, resyncs included, and does not watch them: a
watch on some of them would be a watch on all Secrets and ConfigMaps.

The hash is keyed with the uid of the object, which only readers of the object know. More users can read a pod than a
Secret, and the plain hash of a short password could be guessed.
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
"""The kind and the name of a referenced object."""


class ConfigReader(Protocol):
    """The method of `KubeClient` that this module needs."""

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None: ...


async def referenced_config_hash(consumer: StreamConsumer, kube: ConfigReader) -> str:
    """Return the hash of all referenced objects that the operator may read. Empty if there are none."""
    hashes = {}
    for (kind, name), keys in sorted(_references(consumer.spec).items()):
        try:
            hashes[f"{kind}/{name}"] = _hmac(await kube.get_config_object(kind, consumer.namespace, name), keys)
        except PermissionDenied:
            continue
    return digest(hashes) if hashes else ""


def _references(spec: StreamConsumerSpec) -> dict[Reference, set[str] | None]:
    """Return the referenced objects with the referenced keys. None means all keys."""
    references: dict[Reference, set[str] | None] = {}
    for variable in spec.env:
        if source := variable.value_from:
            for kind, key in (("Secret", source.secret_key_ref), ("ConfigMap", source.config_map_key_ref)):
                if key:
                    references[kind, key.name] = (references.get((kind, key.name)) or set()) | {key.key}
    for env_from in spec.env_from:
        for kind, ref in (("Secret", env_from.secret_ref), ("ConfigMap", env_from.config_map_ref)):
            if ref:
                references[kind, ref.name] = None
    return references


def _hmac(live: Manifest | None, keys: set[str] | None) -> str:
    if live is None:
        return ""
    data = {**live.get("data", {}), **live.get("binaryData", {})}
    referenced = {key: value for key, value in data.items() if keys is None or key in keys}
    text = json.dumps(referenced, sort_keys=True)
    return hmac.new(live["metadata"]["uid"].encode(), text.encode(), hashlib.sha256).hexdigest()
