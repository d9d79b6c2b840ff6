"""The CustomResourceDefinition, computed from the models. Pure.

Pydantic's JSON schema is not yet structural in Kubernetes' sense: references are inlined, `anyOf [X, null]` is
folded into X, titles and everything the API server does not know are dropped. Scalars carry their default, so
that `kubectl get` shows it; nested objects carry none (absent means default). `kubectl explain` shows none of them,
so each description ends with it.
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
"""The status of what no operator has seen yet: kstatus, and with it Helm and Flux, takes what has none for done."""

_KEPT_KEYWORDS = [
    *("type", "format", "pattern", "enum", "required"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
    *("x-kubernetes-validations", "x-kubernetes-int-or-string"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
]

PRINTER_COLUMNS = [
    ("Stream", "string", ".spec.stream", 0, "The stream that is read"),
    ("Group", "string", ".spec.consumerGroup", 0, "The consumer group it is read as"),
    ("Desired", "integer", ".status.desiredReplicas", 0, "How many pods are wanted"),
    ("Ready", "integer", ".status.readyReplicas", 0, "How many pods read the stream"),
    ("Lag", "integer", ".status.stream.lag", 0, "How many entries the group has not been given yet"),
    (
        "Pending",
        "integer",
        ".status.stream.pending",
        0,
        "How many entries are with a consumer, or wait for another try",
    ),
    ("Status", "string", '.status.conditions[?(@.type=="Ready")].reason', 0, "Why it is ready or not"),
    ("Age", "date", ".metadata.creationTimestamp", 0, ""),
    ("Image", "string", ".spec.image", 1, "The image that holds the handler"),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', 1, "The reason in a sentence"),
]


def custom_resource_definition() -> Schema:
    """The whole manifest, in the order in which people read one."""
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
    """The structural schema of one model."""
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
        "description": "A Redis stream, a consumer group, and the function that handles each message.",
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
    """The schema, with its defaults as part of the descriptions."""
    told = dict(schema)
    if "default" in schema and schema["default"] != "":
        default = schema["default"]
        shown = json.dumps(default) if isinstance(default, bool) else str(default)
        told["description"] = f"{schema['description']} Default: {shown}."
    if "properties" in schema:
        told["properties"] = {name: _append_defaults(inner) for name, inner in schema["properties"].items()}
    for deeper in ("items", "additionalProperties"):
        if deeper in schema:
            told[deeper] = _append_defaults(schema[deeper])
    return told


def _to_structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    schema = _inline_refs(schema, definitions)
    result: Schema = {}
    if "description" in schema:
        result["description"] = " ".join(schema["description"].split())
    result.update({word: schema[word] for word in _KEPT_KEYWORDS if word in schema})
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


def _inline_refs(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema with its reference inlined and `or null` taken out: the API server drops a null by itself."""
    if "anyOf" in schema:
        (kind,) = [option for option in schema["anyOf"] if option != {"type": "null"}]
        schema = {**kind, **{key: value for key, value in schema.items() if key != "anyOf"}}
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema
