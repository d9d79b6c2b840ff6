"""CustomResourceDefinition, computed from the models. The functions have no side effects.

`kubectl explain` does not show defaults, so each description ends with the default.
"""

import json

from streamconsumer.model import names
from streamconsumer.model.fields import cel_rules
from streamconsumer.model.spec import MAX_NAME_LENGTH, NAME_TOO_LONG, StreamConsumerSpec
from streamconsumer.model.status import Status
from streamconsumer.model.structural_schema import Schema, structural_schema

INITIAL_STATUS = {"observedGeneration": -1}
"""Status of a StreamConsumer that no operator has processed yet. If the status were missing, kstatus, Helm and Flux
would consider the StreamConsumer ready."""

PRINTER_COLUMNS = [
    ("Stream", "string", ".spec.stream", 0, "Redis key of the stream"),
    ("Group", "string", ".spec.consumerGroup", 0, "Consumer group"),
    ("Desired", "integer", ".status.desiredReplicas", 0, "Desired number of pods"),
    ("Ready", "integer", ".status.readyReplicas", 0, "Number of pods that read the stream"),
    ("Lag", "integer", ".status.stream.lag", 0, "Number of entries that have not been delivered to the group yet"),
    (
        "Pending",
        "integer",
        ".status.stream.pending",
        0,
        "Number of entries in progress or waiting for a retry",
    ),
    ("Status", "string", '.status.conditions[?(@.type=="Ready")].reason', 0, "Reason of the Ready condition"),
    ("Age", "date", ".metadata.creationTimestamp", 0, ""),
    ("Image", "string", ".spec.image", 1, "Image with the handler"),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 1, "Message of the Ready condition"),
]


def custom_resource_definition() -> Schema:
    """Return the manifest of the CustomResourceDefinition, with its fields in the usual order."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [_crd_version()],
        },
    }


def _crd_version() -> Schema:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_printer_column(*column) for column in PRINTER_COLUMNS],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root_schema()},
    }


def _root_schema() -> Schema:
    return {
        "description": "A Redis stream, a consumer group and a handler that is called with each message.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _append_defaults(structural_schema(StreamConsumerSpec)),
            "status": {**structural_schema(Status), "default": INITIAL_STATUS},
        },
        **cel_rules((f"self.metadata.name.size() <= {MAX_NAME_LENGTH}", NAME_TOO_LONG)),
    }


def _printer_column(name: str, type_name: str, path: str, priority: int, description: str) -> Schema:
    optional = {"priority": priority} if priority else {}
    described = {"description": description} if description else {}
    return {"name": name, "type": type_name, "jsonPath": path, **optional, **described}


def _append_defaults(schema: Schema) -> Schema:
    """Return the schema with each default appended to the description of its field."""
    result = dict(schema)
    if "default" in schema and schema["default"] != "":
        default = schema["default"]
        text = json.dumps(default) if isinstance(default, bool) else str(default)
        result["description"] = f"{schema['description']} Default: {text}."
    if "properties" in schema:
        result["properties"] = {name: _append_defaults(inner) for name, inner in schema["properties"].items()}
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            result[keyword] = _append_defaults(schema[keyword])
    return result
