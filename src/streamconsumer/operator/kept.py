"""What is remembered of an object. Pure.

An object as the API server tells it is 10 to 20 KB of text and, read, five times that: most of it says who set which
field when, and spells the same words as every other object. A thousand StreamConsumers have four thousand objects.
So the store keeps what somebody reads, and each word and each part once: most of a Deployment is that of the next.
"""

from sys import intern
from typing import Any

from streamconsumer.model import names
from streamconsumer.operator.manifests import Manifest

_NOT_READ = {"managedFields", "creationTimestamp", "selfLink", "generateName"}
_NOTE = "kubectl.kubernetes.io/last-applied-configuration"
_OF_A_CONTAINER = {"name", "ready", "started", "state", "lastState"}
_LONGEST_WORD = 64
"""Characters. What is longer is a sentence, and hardly said twice."""

_MOST_PARTS = 10_000
"""Of those that are looked up, some 2 MB; then it begins anew, and what is kept already stays."""


def kept(manifest: Manifest) -> Manifest:
    """The manifest without what nobody reads."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _NOT_READ}
    if _NOTE in metadata.get("annotations", {}):
        metadata["annotations"] = {key: value for key, value in metadata["annotations"].items() if key != _NOTE}
    if replicas := _who_states_replicas(manifest):
        metadata["managedFields"] = replicas
    whole = {**manifest, "metadata": metadata}
    found: Manifest = _shared(_pod(whole) if manifest["kind"] == "Pod" else whole)
    return found


def mapping(value: Any) -> Manifest:
    """The value where it is an object; nothing otherwise. For what is read of a resource that may be invalid, in spite
    of the API server's rules: what one holds must not fail the work for another."""
    return value if isinstance(value, dict) else {}


def _who_states_replicas(manifest: Manifest) -> list[Manifest]:
    """Of who owns which field, whether we own the replicas: see `drift.gives_replicas_up`."""
    return [
        {"manager": each["manager"], "operation": each["operation"], "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for each in manifest["metadata"].get("managedFields", [])
        if each.get("manager") == names.FIELD_MANAGER and "f:replicas" in each.get("fieldsV1", {}).get("f:spec", {})
    ]


def _pod(pod: Manifest) -> Manifest:
    """How a pod fares: what it was made of stands in the Deployment."""
    status = pod.get("status", {})
    return {
        **pod,
        "spec": {"volumes": [each for each in pod.get("spec", {}).get("volumes", []) if "configMap" in each]},
        "status": {
            **({"phase": status["phase"]} if "phase" in status else {}),
            "conditions": [each for each in status.get("conditions", []) if each.get("type") == "PodScheduled"],
            "containerStatuses": [
                {key: value for key, value in each.items() if key in _OF_A_CONTAINER}
                for each in status.get("containerStatuses", [])
            ],
        },
    }


def _shared(value: Any) -> Any:
    """The same, of parts that objects have in common. Nobody changes what the store holds."""
    match value:
        case dict():
            parts = {intern(key): _shared(each) for key, each in value.items()}
            return _once((dict, *((key, _identity(each)) for key, each in parts.items())), parts)
        case list():
            items = [_shared(each) for each in value]
            return _once((list, *map(_identity, items)), items)
        case str() if len(value) <= _LONGEST_WORD:
            return intern(value)
    return value


_parts: dict[tuple[Any, ...], Any] = {}
"""Objects and lists, by what is in them: it holds its parts, so that none of the numbers becomes another's."""


def _once(identity: tuple[Any, ...], part: Any) -> Any:
    if len(_parts) >= _MOST_PARTS:
        _parts.clear()
    return _parts.setdefault(identity, part)


def _identity(value: Any) -> Any:
    """A number for what is one and the same in memory; numbers and truth by themselves, 1 not being True."""
    return id(value) if isinstance(value, dict | list | str) else (type(value), value)
