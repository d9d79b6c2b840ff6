"""The hash of the Secrets and ConfigMaps that the environment variables of the pods refer to.

A container's environment variables are fixed when it starts. The pod template contains the hash, so a change of a
referenced object starts a rollout. The operator reads the referenced objects in every reconcile, including resyncs. The
operator does not watch these objects, because it would have to watch all Secrets and ConfigMaps.

The hash is an HMAC whose key is the object's uid. Only users who are allowed to read the object know its uid. A plain
hash would not be safe, because more users can read a pod than a Secret, and these users could guess a short password.
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
    """Return the hash of all referenced objects that the operator is allowed to read, or an empty string if there are
    none."""
    hashes = {}
    for (kind, name), keys in sorted(_references(consumer.spec).items()):
        try:
            hashes[f"{kind}/{name}"] = _hmac(await kube.get_config_object(kind, consumer.namespace, name), keys)
        except PermissionDenied:
            continue
    return digest(hashes) if hashes else ""


def _references(spec: StreamConsumerSpec) -> dict[Reference, set[str] | None]:
    """Return the referenced objects, each with its referenced keys. None means all keys."""
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
