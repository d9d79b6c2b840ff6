"""Structural schemas, computed from the models. The functions have no side effects.

Kubernetes requires a structural schema, but Pydantic's JSON schema is not structural. This module therefore inlines
references, replaces `anyOf [X, null]` by X, and drops titles and all keywords that the API server does not know. Scalar
fields have a default in the schema, so that `kubectl get` shows the default. Nested objects have no default in the
schema, because each field of an omitted object has its own default.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from streamconsumer.model.fields import format_duration

Schema = dict[str, Any]

_KEPT_KEYWORDS = [
    *("type", "format", "pattern", "enum", "required"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
    *("x-kubernetes-validations", "x-kubernetes-int-or-string"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
]


def structural_schema(model: type[BaseModel], *, with_examples: bool = False) -> Schema:
    """Return the structural schema of a model. `with_examples` adds the keyword `examples`, which the API server does
    not know, for error messages."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_DurationTextSchema)
    keywords = [*_KEPT_KEYWORDS, "examples"] if with_examples else _KEPT_KEYWORDS
    return _to_structural(schema, schema.get("$defs", {}), keywords)


class _DurationTextSchema(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def _to_structural(schema: Schema, definitions: dict[str, Schema], keywords: Sequence[str]) -> Schema:
    schema = _inline_refs(schema, definitions)
    result: Schema = {}
    if "description" in schema:
        result["description"] = " ".join(schema["description"].split())
    result.update({keyword: schema[keyword] for keyword in keywords if keyword in schema})
    if "propertyNames" in schema:
        keyword = "x-kubernetes-validations"
        result[keyword] = [*_key_rules(schema["propertyNames"]), *result.get(keyword, [])]
    if isinstance(schema.get("default"), str | int):
        result["default"] = schema["default"]
    if "properties" in schema:
        result["properties"] = {
            name: _to_structural(inner, definitions, keywords) for name, inner in schema["properties"].items()
        }
    if "items" in schema:
        result["items"] = _to_structural(schema["items"], definitions, keywords)
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _to_structural(schema["additionalProperties"], definitions, keywords)
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
