"""What is remembered of an object. Pure.

An object as the API server tells it is 10 to 20 KB of text and, read, five times that: most of it says who set which
field when, and spells the same words as every other object. A thousand StreamConsumers have four thousand objects.
So the store keeps what somebody reads, and each word and each part once: most of a Deployment is that of the next.
"""

from collections.abc import Callable, Iterable, Mapping
from sys import intern
from typing import Any

from streamconsumer.operator.manifests import Manifest

_NOT_READ = {"managedFields", "creationTimestamp", "selfLink", "generateName"}
_NOTE = "kubectl.kubernetes.io/last-applied-configuration"
_OF_A_CONDITION = {"type", "status", "reason", "message"}
"""Without its times, it is that of the next object too."""

_READ_CONDITIONS = {"PodScheduled", "ReplicaFailure", "Progressing"}
_OF_A_CONTAINER = {"name", "ready", "started", "state", "lastState"}
_LONGEST_WORD = 64
"""Characters. What is longer is a sentence, and hardly said twice."""

_LONGEST_SENTENCE = 256
"""Characters. What is longer is not looked up, nor what it is in: it would be held although its object is gone."""

_MOST_PARTS = 10_000
"""Of those that are looked up, a few MB; then it begins anew, and what is kept already stays."""


def kept(manifest: Manifest) -> Manifest:
    """The manifest without what nobody reads."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _NOT_READ}
    if _NOTE in metadata.get("annotations", {}):
        metadata["annotations"] = {key: value for key, value in metadata["annotations"].items() if key != _NOTE}
    whole = _WITHOUT.get(manifest["kind"], dict)(manifest)
    return _with_shared_parts({**whole, "metadata": _with_shared_parts(metadata)})


def mapping(value: Any) -> Manifest:
    """The value where it is an object; nothing otherwise. For what is read of a resource that may be invalid, in spite
    of the API server's rules: what one holds must not fail the work for another."""
    return value if isinstance(value, dict) else {}


def _pod(pod: Manifest) -> Manifest:
    """How a pod fares: what it was made of stands in the Deployment."""
    status = pod.get("status", {})
    return {
        **pod,
        "spec": {"volumes": [each for each in pod.get("spec", {}).get("volumes", []) if "configMap" in each]},
        "status": {
            **({"phase": status["phase"]} if "phase" in status else {}),
            "conditions": _conditions(status),
            "containerStatuses": [
                {key: value for key, value in each.items() if key in _OF_A_CONTAINER}
                for each in status.get("containerStatuses", [])
            ],
        },
    }


def _deployment(deployment: Manifest) -> Manifest:
    status = deployment.get("status", {})
    return {**deployment, "status": {**status, "conditions": _conditions(status)}} if status else deployment


def _conditions(status: Manifest) -> list[Manifest]:
    return [
        {key: value for key, value in each.items() if key in _OF_A_CONDITION}
        for each in status.get("conditions", [])
        if each.get("type") in _READ_CONDITIONS
    ]


_WITHOUT: Mapping[str, Callable[[Manifest], Manifest]] = {"Pod": _pod, "Deployment": _deployment}


def _with_shared_parts(own: Manifest) -> Manifest:
    """What has a version or a uid in it is nobody else's."""
    return {intern(key): _shared(each)[0] for key, each in own.items()}


def _shared(value: Any) -> tuple[Any, Any]:
    """The same, of parts that objects have in common, and what tells it from every other; None for what is too large to
    be looked up. Nobody changes what the store holds."""
    match value:
        case dict():
            found = {intern(key): _shared(each) for key, each in value.items()}
            parts = {key: part for key, (part, _) in found.items()}
            return _once(parts, dict, [(key, identity) for key, (_, identity) in found.items()], found.values())
        case list():
            items = [_shared(each) for each in value]
            return _once([part for part, _ in items], list, [identity for _, identity in items], items)
        case str() if len(value) <= _LONGEST_WORD:
            return intern(value), value
        case str():
            return value, value if len(value) <= _LONGEST_SENTENCE else None
    return value, (type(value), value)  # 1 is not True


_parts: dict[tuple[Any, ...], Any] = {}
"""Objects and lists, by what is in them: each holds its parts, so that none of the numbers becomes another's."""


def _once(part: Any, kind: type, identities: list[Any], parts: Iterable[tuple[Any, Any]]) -> tuple[Any, int | None]:
    if any(identity is None for _, identity in parts):
        return part, None
    if len(_parts) >= _MOST_PARTS:
        _parts.clear()
    shared = _parts.setdefault((kind, *identities), part)
    return shared, id(shared)
