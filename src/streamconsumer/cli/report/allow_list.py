"""Allow-list of a bundle: selects fields of StreamConsumers, Deployments, Events and metrics. The functions have
no side effects."""

from collections.abc import Collection, Iterator, Mapping
from math import isfinite
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumerSpec
from streamconsumer.model.status import Status
from streamconsumer.model.structural_schema import structural_schema

_METADATA = ("namespace", "name", "uid", "generation", "creationTimestamp", "deletionTimestamp")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_COUNTS = ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas")


def streamconsumer_document(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a StreamConsumer with only the fields that the models define. The values in `env` and the code in
    `handler.source` are omitted."""
    spec, status = structural_schema(StreamConsumerSpec), structural_schema(Status)
    del spec["properties"]["env"]["items"]["properties"]["value"]
    del spec["properties"]["handler"]["properties"]["source"]
    return {
        "metadata": _copy_fields(manifest["metadata"], *_METADATA),
        "spec": _copy_defined(manifest.get("spec"), spec),
        "status": _copy_defined(manifest.get("status"), status),
    }


def _copy_defined(value: Any, schema: Mapping[str, Any]) -> Any:
    """Copy the fields that the schema defines.

    A map of texts is replaced by the list of its keys. A value whose type differs from the type in the schema becomes
    None.
    """
    match schema, value:
        case {"properties": fields}, dict():
            return {name: _copy_defined(inner, fields[name]) for name, inner in value.items() if name in fields}
        case {"additionalProperties": {"x-kubernetes-int-or-string": True} as quantity}, dict():
            return {name: _copy_defined(inner, quantity) for name, inner in value.items()}
        case {"additionalProperties": _}, dict():
            return [*value]
        case {"items": inner}, list():
            return [_copy_defined(each, inner) for each in value]
        case ({"type": "object" | "array"}, _) | (_, dict() | list()):
            return None
    return value


def deployment_document(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the replicas, images, resources and status of a Deployment. Environment, command, arguments and volumes are
    omitted."""
    spec, status = manifest["spec"], manifest.get("status", {})
    return {
        "metadata": _copy_fields(manifest["metadata"], *_METADATA),
        **_copy_fields(spec, "replicas", "paused", "strategy"),
        "containers": [
            _copy_fields(container, "name", "image", "resources")
            for container in spec["template"]["spec"]["containers"]
        ],
        "status": _copy_fields(status, *_COUNTS),
        "conditions": [_copy_fields(each, *_CONDITION) for each in status.get("conditions", [])],
    }


def event_document(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the text and the times of an Event, and the kind and name of the object that the Event describes."""
    return {
        **_copy_fields(
            manifest, "type", "reason", "note", "eventTime", "deprecatedLastTimestamp", "deprecatedCount", "series"
        ),
        "regarding": _copy_fields(manifest["regarding"], "kind", "name"),
    }


def _copy_fields(manifest: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {name: manifest[name] for name in fields if name in manifest}


def samples(exposition: str, resources: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the samples of StreamConsumer metrics. If a sample of the operator describes a resource outside the bundle,
    the sample is omitted.

    Raises ValueError if the text is not in the Prometheus format.
    """
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            resource = f"{labels.get('resource_namespace', '')}/{labels.get('resource_name', '')}"
            if name.startswith(f"{names.SINGULAR}_") and resource in ("/", *resources):
                yield {"name": name, "labels": labels, "value": value if isfinite(value) else str(value)}
