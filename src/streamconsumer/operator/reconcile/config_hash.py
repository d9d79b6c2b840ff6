"""The hashes of the Secrets and ConfigMaps that the environment variables of the pods refer to.

The environment variables of a container are fixed when the container starts. The pod template contains a hash, so a new
hash starts a rollout. The operator reads the referenced objects in every reconcile, including resyncs. The operator
does not watch these objects, because the watch would include all Secrets and ConfigMaps.

The operator may lose and regain the permission to read Secrets. Such a change of permissions must not start a rollout.
An annotation of the Deployment therefore contains the hash of each object that was readable in the last reconcile. The
operator compares these hashes with the current hashes of the objects. Only a difference changes the hash in the pod
template. If a Secret changes while the operator is not allowed to read the Secret, no rollout starts.

Each hash is an HMAC whose key is the object's uid. Only users who are allowed to read the object know its uid. A plain
hash would not be safe: a user who can read the pod but not the Secret could guess a short password and compare the
hashes.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from streamconsumer.errors import PermissionDenied
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer, StreamConsumerSpec
from streamconsumer.operator.manifests import Manifest, ReferenceHashes
from streamconsumer.operator.manifests.metadata import digest

Reference = tuple[str, str]
"""The kind and the name of a referenced object."""


HASH_LENGTH = 16
"""The number of hexadecimal digits of a hash."""


class ConfigReader(Protocol):
    """The method of `SecretReader` that this module needs."""

    async def get_config_object(self, kind: str, namespace: str, name: str) -> Manifest | None: ...


async def read_reference_hashes(consumer: StreamConsumer, reader: ConfigReader) -> dict[str, str] | None:
    """Return the hash of each referenced object that the operator is allowed to read, or None if the StreamConsumer
    refers to no objects."""
    references = referenced_objects(consumer.spec)
    hashes = {}
    for (kind, name), keys in sorted(references.items()):
        with suppress(PermissionDenied):
            # No variable keeps an object, which may take 30 MB, while the next object is read.
            hashes[f"{kind}/{name}"] = _hmac(await reader.get_config_object(kind, consumer.namespace, name), keys)
    return hashes if references else None


def next_references(deployment: Manifest | None, hashes: Mapping[str, str]) -> ReferenceHashes:
    """Return the annotations for the current hashes. `deployment` is the live Deployment, or None if no Deployment
    exists.

    If a known object has changed, the new hash in the pod template is computed from the old hash in the pod template
    and the current hashes. The new hash therefore differs from all earlier hashes."""
    known = ",".join(f"{reference}={value}" for reference, value in sorted(hashes.items()))
    if deployment is None:
        return ReferenceHashes(digest(dict(hashes)) if hashes else "", known)
    previous = _parse_known(_annotation(deployment, names.ANNOTATION_KNOWN_REFERENCES))
    template = _annotation(deployment["spec"]["template"], names.ANNOTATION_REFERENCES)
    if any(previous.get(reference, value) != value for reference, value in hashes.items()):
        template = digest([template, dict(hashes)])
    return ReferenceHashes(template, known)


def _parse_known(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(",") if item)
    return {reference: value for reference, _, value in pairs}


def _annotation(manifest: Manifest, name: str) -> str:
    return str(manifest.get("metadata", {}).get("annotations", {}).get(name, ""))


def referenced_objects(spec: StreamConsumerSpec) -> dict[Reference, set[str] | None]:
    """Return the referenced objects, each with its referenced keys. The value None means that all keys are
    referenced."""
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
    return hmac.new(live["metadata"]["uid"].encode(), text.encode(), hashlib.sha256).hexdigest()[:HASH_LENGTH]
