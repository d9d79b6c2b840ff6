"""CustomResourceDefinition, computed from the models. The functions have no side effects.

Kubernetes requires a structural schema, but Pydantic's JSON schema is not structural. This module therefore inlines
references, replaces `anyOf [X, null]` by X, and drops titles and all keywords that the API server does not know. Scalar
fields have a default in the schema, so that `kubectl get` shows the default. Nested objects have no default in the
schema, because each field of an omitted object has its own default. `kubectl explain` does not show defaults, so each
description ends with the default.
"""

import json
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from streamconsumer.model import names
from streamconsumer.model.fields import cel_rules, format_duration
from streamconsumer.model.spec import MAX_NAME_LENGTH, NAME_TOO_LONG, StreamConsumerSpec
from streamconsumer.model.status import Status

Schema = dict[str, Any]

INITIAL_STATUS = {"observedGeneration": -1}
"""Status of a StreamConsumer that no operator has processed yet. If the status were missing, kstatus, Helm and Flux
would consider the StreamConsumer ready."""

_KEPT_KEYWORDS = [
    *("type", "format", "pattern", "enum", "required"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
    *("x-kubernetes-validations", "x-kubernetes-int-or-string"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
]

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


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a model."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_DurationTextSchema)
    return _to_structural(schema, schema.get("$defs", {}))


class _DurationTextSchema(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


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


def _to_structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    schema = _inline_refs(schema, definitions)
    result: Schema = {}
    if "description" in schema:
        result["description"] = " ".join(schema["description"].split())
    result.update({keyword: schema[keyword] for keyword in _KEPT_KEYWORDS if keyword in schema})
    if "propertyNames" in schema:
        keyword = "x-kubernetes-validations"
        result[keyword] = [*_key_rules(schema["propertyNames"]), *result.get(keyword, [])]
    if isinstance(schema.get("default"), str | int):
        result["default"] = schema["default"]
    if "properties" in schema:
        result["properties"] = {
            name: _to_structural(inner, definitions) for name, inner in schema["properties"].items()
        }
    if "items" in schema:
        result["items"] = _to_structural(schema["items"], definitions)
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _to_structural(schema["additionalProperties"], definitions)
    return result


def _key_rules(key: Schema) -> list[dict[str, str]]:
    """Convert the rules for an object's keys to rules for the object. A structural schema has no keyword for rules
    about keys."""
    return [
        {
            "rule": f"self.all(key, size(key) <= {key['maxLength']} && {rule['rule'].replace('self', 'key', 1)})",
            "message": rule["message"],
        }
        for rule in key["x-kubernetes-validations"]
    ]


def _inline_refs(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return the schema with its reference inlined, and without null as an alternative type.

    Null is not needed as a type, because the API server drops nulls.
    """
    if "anyOf" in schema:
        (variant,) = [option for option in schema["anyOf"] if option != {"type": "null"}]
        schema = {**variant, **{key: value for key, value in schema.items() if key != "anyOf"}}
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema
