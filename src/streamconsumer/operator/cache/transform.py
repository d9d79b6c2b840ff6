"""Reduces the memory that cached objects need: drops unused fields, and stores equal strings only once.

An object from the API server is 10 to 20 KB of JSON, and takes five times that size in memory after parsing. Most of
the memory of a cached object is used for `managedFields`, and for strings that also occur in all other objects. For
1,000 StreamConsumers, the cache contains 4,000 objects.

The functions in this module have no side effects.
"""

from collections.abc import Callable, Mapping
from sys import intern
from typing import Any

from streamconsumer.model import names
from streamconsumer.operator.cache.namespace_budget import size_of
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.env import ENDPOINT_VARIABLE
from streamconsumer.operator.manifests.source_config_map import SOURCE_VOLUME

_UNUSED_METADATA = {"managedFields", "creationTimestamp", "selfLink", "generateName"}
_REDUCED_METADATA = {"namespace", "name", "uid", "resourceVersion", "generation", "deletionTimestamp"}
_MAX_OWNERS = 4
_MAX_DETAIL_BYTES = 16 * 1024
"""Maximum size in memory of the spec and of the status of an object that is stored only in part."""

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_CONDITION_FIELDS = {"type", "status", "reason", "message"}
_USED_CONDITIONS = {"PodScheduled", "ReplicaFailure", "Progressing"}
_CONTAINER_FIELDS = {"name", "ready", "started", "state", "lastState"}
_MAX_INTERNED_LENGTH = 64
"""The maximum length, in characters, of strings that are interned. Longer strings rarely occur in two objects."""


def strip_unused(manifest: Manifest) -> Manifest:
    """Return the manifest without the fields that the operator never reads."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _UNUSED_METADATA}
    if "annotations" in metadata:
        is_used = {names.ANNOTATION_DELETION_COST}.__contains__ if manifest["kind"] == "Pod" else _LAST_APPLIED.__ne__
        metadata["annotations"] = {key: value for key, value in metadata["annotations"].items() if is_used(key)}
    used = _STRIP_BY_KIND.get(manifest["kind"], dict)(manifest)
    stripped: Manifest = _intern_strings({**used, "metadata": metadata})
    return stripped


def as_mapping(value: Any) -> Manifest:
    """Return the value if it is a dict, otherwise an empty dict. Use this function to read resources that may violate
    the CRD's rules, because one invalid resource must not affect all other resources."""
    return value if isinstance(value, dict) else {}


def _strip_pod(pod: Manifest) -> Manifest:
    """Return the pod with the fields of its status that the operator reads, and with only the ConfigMap volumes of its
    spec."""
    status = pod.get("status", {})
    return {
        **pod,
        "spec": {"volumes": [each for each in pod.get("spec", {}).get("volumes", []) if "configMap" in each]},
        "status": {
            **({"phase": status["phase"]} if "phase" in status else {}),
            "conditions": _strip_conditions(status),
            **{
                name: [
                    {key: value for key, value in each.items() if key in _CONTAINER_FIELDS}
                    for each in status.get(name, [])
                ]
                for name in ("initContainerStatuses", "containerStatuses")
                if name in status
            },
        },
    }


def _strip_deployment(deployment: Manifest) -> Manifest:
    status = deployment.get("status", {})
    return {**deployment, "status": {**status, "conditions": _strip_conditions(status)}} if status else deployment


def _strip_conditions(status: Manifest) -> list[Manifest]:
    return [
        {key: value for key, value in each.items() if key in _CONDITION_FIELDS}
        for each in status.get("conditions", [])
        if each.get("type") in _USED_CONDITIONS
    ]


_STRIP_BY_KIND: Mapping[str, Callable[[Manifest], Manifest]] = {"Pod": _strip_pod, "Deployment": _strip_deployment}


def reduce(manifest: Manifest) -> Manifest:
    """Return the manifest with two kinds of fields: fields that the operator needs outside of a reconcile, and fields
    that it needs between the steps of a reconcile. The result has a bounded size."""
    metadata = manifest["metadata"]
    owners = metadata.get("ownerReferences", [])
    label = metadata.get("labels", {}).get(names.LABEL_CONSUMER)
    reduce_spec = _REDUCE_SPEC_BY_KIND.get(manifest["kind"], _drop)
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {
            **{key: value for key, value in metadata.items() if key in _REDUCED_METADATA},
            **({"labels": {names.LABEL_CONSUMER: label}} if label else {}),
            "ownerReferences": [owner for owner in owners if owner.get("kind") == names.KIND][:_MAX_OWNERS],
        },
        "spec": reduce_spec(as_mapping(manifest.get("spec"))),
        "status": _drop_large(as_mapping(manifest.get("status"))),
    }


def _drop(_: Manifest) -> Manifest:
    return {}


def _drop_large(value: Manifest) -> Manifest:
    return value if size_of(value, _MAX_DETAIL_BYTES) <= _MAX_DETAIL_BYTES else {}


def _reduce_consumer_spec(spec: Manifest) -> Manifest:
    """Return the fields of the spec that the metrics use as labels."""
    return _drop_large({key: value for key, value in spec.items() if key in ("stream", "consumerGroup")})


def _reduce_deployment_spec(spec: Manifest) -> Manifest:
    """Return the number of pods, and the fields that contain the effective settings."""
    containers = [
        {
            **{key: value for key, value in each.items() if key in ("name", "image", "imagePullPolicy")},
            "env": [variable for variable in each.get("env", []) if variable.get("name") == ENDPOINT_VARIABLE],
        }
        for each in spec["template"]["spec"]["containers"]
    ]
    paused = {"paused": True} if spec.get("paused") is True else {}
    template = _drop_large({"template": {"spec": {"containers": containers}}})
    return {"replicas": spec.get("replicas", 1), **paused, **template}


def _reduce_pod_spec(spec: Manifest) -> Manifest:
    """Return the field that names the ConfigMap with the source code. The operator keeps this ConfigMap as long as the
    pod runs."""
    sources = [each["configMap"]["name"] for each in spec["volumes"] if each["name"] == SOURCE_VOLUME]
    return {"volumes": [{"name": SOURCE_VOLUME, "configMap": {"name": name}} for name in sources]}


_REDUCE_SPEC_BY_KIND: Mapping[str, Callable[[Manifest], Manifest]] = {
    "Pod": _reduce_pod_spec,
    names.KIND: _reduce_consumer_spec,
    "Deployment": _reduce_deployment_spec,
}

_MAX_INTERNED_ITEMS = 500
"""Maximum number of items of a dict or list whose strings are interned. The dicts and lists of valid objects have at
most this number of items."""


def _intern_strings(value: Any) -> Any:
    """Return a copy of the value in which equal keys and equal short strings are the same string object."""
    match value:
        case dict() | list() if len(value) > _MAX_INTERNED_ITEMS:
            return value
        case dict():
            return {intern(key): _intern_strings(each) for key, each in value.items()}
        case list():
            return [_intern_strings(each) for each in value]
        case str() if len(value) <= _MAX_INTERNED_LENGTH:
            return intern(value)
    return value
