"""What is remembered of an object. Pure.

An object from the API server is 10 to 20 KB of JSON and takes five times that once it is parsed. Most of it is field
ownership and words that every other object repeats. A thousand StreamConsumers have four thousand objects. The store
drops the fields that the operator never reads and holds each word once.
"""

from collections.abc import Callable, Mapping
from sys import intern
from typing import Any

from streamconsumer.operator.manifests import Manifest

_NOT_READ = {"managedFields", "creationTimestamp", "selfLink", "generateName"}
_NOTE = "kubectl.kubernetes.io/last-applied-configuration"
_OF_A_CONDITION = {"type", "status", "reason", "message"}
_READ_CONDITIONS = {"PodScheduled", "ReplicaFailure", "Progressing"}
_OF_A_CONTAINER = {"name", "ready", "started", "state", "lastState"}
_LONGEST_WORD = 64
"""The length, in characters, up to which a string is interned. Longer strings rarely occur in two objects."""


def kept(manifest: Manifest) -> Manifest:
    """The manifest without what nobody reads."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _NOT_READ}
    if _NOTE in metadata.get("annotations", {}):
        metadata["annotations"] = {key: value for key, value in metadata["annotations"].items() if key != _NOTE}
    whole = _WITHOUT.get(manifest["kind"], dict)(manifest)
    found: Manifest = _interned({**whole, "metadata": metadata})
    return found


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


def _interned(value: Any) -> Any:
    """Copy the value with one object in memory for all equal keys and short strings."""
    match value:
        case dict():
            return {intern(key): _interned(each) for key, each in value.items()}
        case list():
            return [_interned(each) for each in value]
        case str() if len(value) <= _LONGEST_WORD:
            return intern(value)
    return value
