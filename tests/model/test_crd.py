import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from streamconsumer.model.crd import PRINTER_COLUMNS, custom_resource_definition
from streamconsumer.model.fields import format_duration, parse_duration
from streamconsumer.model.spec import StreamConsumerSpec
from streamconsumer.model.status import Condition, Status
from tests.model.rules import RULES_WITH_MESSAGE

Schema = dict[str, Any]

CRD = custom_resource_definition()
(VERSION,) = CRD["spec"]["versions"]
ROOT = VERSION["schema"]["openAPIV3Schema"]


def schemas(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield the schema and all schemas below it, each with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from schemas(schema[word], f"{path}[]")


ALL = dict(schemas(ROOT))
SPEC_AND_STATUS = {path: schema for path, schema in ALL.items() if path.startswith((".spec", ".status"))}


def test_crd_is_smaller_than_70_kilobytes() -> None:
    assert len(json.dumps(CRD, separators=(",", ":")).encode()) < 70_000  # kubectl apply stores it in an annotation


def test_crd_names_never_change() -> None:
    assert CRD["metadata"]["name"] == "streamconsumers.streamconsumer.dev"
    assert CRD["spec"]["names"] == {
        "kind": "StreamConsumer",
        "listKind": "StreamConsumerList",
        "plural": "streamconsumers",
        "singular": "streamconsumer",
        "shortNames": ["stc"],
        "categories": ["streams"],
    }
    assert (VERSION["name"], CRD["spec"]["scope"]) == ("v1alpha1", "Namespaced")


def is_structural(schema: Schema) -> bool:
    has_type = schema.get("type") in {"object", "array", "string", "integer", "number", "boolean"}
    other_words = {"$ref", "$defs", "title", "anyOf", "allOf", "oneOf", "const", "exclusiveMinimum"}
    return (
        (has_type or bool(schema.get("x-kubernetes-int-or-string")))
        and not other_words & set(schema)
        and (schema.get("type") != "array" or "items" in schema)
    )


def test_every_schema_is_structural() -> None:
    assert {path: schema for path, schema in SPEC_AND_STATUS.items() if not is_structural(schema)} == {}


def test_every_field_has_a_description() -> None:
    fields = {path: schema.get("description") for path, schema in SPEC_AND_STATUS.items() if not path.endswith("[]")}
    assert {path: text for path, text in fields.items() if not re.match(r"^[A-Z`].*\.$", text or "", re.DOTALL)} == {}


def is_bounded(schema: Schema) -> bool:
    bounds = {"string": {"maxLength", "enum"}, "array": {"maxItems"}, "integer": {"maximum"}}
    required = bounds.get(schema.get("type", ""))
    return (required is None or bool(required & set(schema))) and (
        "additionalProperties" not in schema or "maxProperties" in schema
    )


def test_every_field_of_the_spec_has_bounds() -> None:
    """An unbounded list or text makes CEL rules too expensive for the API server, and could fill etcd."""
    fields = {path: schema for path, schema in SPEC_AND_STATUS.items() if path.startswith(".spec")}
    assert fields
    assert {path: schema for path, schema in fields.items() if not is_bounded(schema)} == {}


@pytest.mark.parametrize("column", PRINTER_COLUMNS, ids=lambda column: column[0])
def test_every_printer_column_shows_an_existing_field(column: tuple[str, str, str, int, str]) -> None:
    path = column[2]
    if path == ".metadata.creationTimestamp":
        return
    match = re.fullmatch(r"(\.status\.conditions)\[\?\(@\.type==\"(\w+)\"\)\](\.\w+)", path)
    assert (f"{match[1]}[]{match[3]}" if match else path) in ALL


def test_scale_subresource_uses_existing_fields() -> None:
    scale = VERSION["subresources"]["scale"]
    assert {ALL[path]["type"] for path in scale.values()} == {"integer", "string"}
    assert VERSION["subresources"]["status"] == {}


def test_conditions_are_merged_by_type_and_variables_by_name() -> None:
    assert ALL[".status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert ALL[".spec.env"]["x-kubernetes-list-map-keys"] == ["name"]
    assert {ALL[path]["x-kubernetes-list-type"] for path in (".status.conditions", ".spec.env")} == {"map"}


def test_condition_has_all_fields_of_a_kubernetes_condition() -> None:
    kubernetes = {"type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"}
    assert set(ALL[".status.conditions[]"]["properties"]) == kubernetes
    assert ALL[".status.conditions[].lastTransitionTime"]["format"] == "date-time"
    assert set(get_args(Condition.model_fields["status"].annotation)) == {"True", "False", "Unknown"}


def test_no_field_is_nullable() -> None:
    """The API server drops nulls. It rejects a CRD with nullable fields that the scale subresource uses."""
    assert not [path for path, schema in ALL.items() if "nullable" in schema]


def defaults(model: type[BaseModel], path: str) -> Iterator[tuple[str, Any]]:
    for field in model.model_fields.values():
        if field.is_required():
            continue
        field_path, default = f"{path}.{field.alias}", field.get_default()
        if isinstance(default, BaseModel):
            yield from defaults(type(default), field_path)
        elif isinstance(default, str | int):
            yield field_path, default
        elif default not in (None, [], {}):
            yield field_path, format_duration(default)


def test_schema_and_model_have_the_same_defaults() -> None:
    of_models = dict([*defaults(StreamConsumerSpec, ".spec"), *defaults(Status, ".status")])
    assert {path: ALL[path].get("default") for path in of_models} == of_models


def test_no_object_of_the_spec_has_a_default() -> None:
    """The status has a default, which shows that no operator has seen the resource yet."""
    objects = [path for path, schema in ALL.items() if schema.get("type") == "object" and "default" in schema]
    assert objects == [".status"]


def cel_rules() -> list[tuple[str, str, str]]:
    """Return path, expression and message of every rule of the CRD."""
    return [
        (path, rule["rule"], rule["message"])
        for path, schema in ALL.items()
        for rule in schema.get("x-kubernetes-validations", [])
    ]


def test_every_rule_has_a_message() -> None:
    assert all(len(message.split()) > 3 for _, _, message in cel_rules())


def test_every_rule_is_also_checked_by_pydantic() -> None:
    """Rules about changes are excluded: a single manifest does not contain the old value."""
    messages = {message for _, expression, message in cel_rules() if "oldSelf" not in expression}
    assert messages == {case.message for case in RULES_WITH_MESSAGE}


def test_stream_and_consumer_group_are_immutable() -> None:
    assert {path for path, expression, _ in cel_rules() if expression == "self == oldSelf"} == {
        ".spec.stream",
        ".spec.consumerGroup",
    }


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models(inner)


@pytest.mark.parametrize("model", dict.fromkeys(models(StreamConsumerSpec)), ids=lambda model: model.__name__)
def test_every_model_validator_has_a_rule_in_the_schema(model: type[BaseModel]) -> None:
    """A validator of a whole model has a CEL rule in the schema of that model."""
    own = model.model_json_schema().get("x-kubernetes-validations", [])
    assert bool(model.__pydantic_decorators__.model_validators) == bool(own)


def test_messages_of_duration_bounds_match_their_expressions() -> None:
    for path, expression, message in cel_rules():
        if match := re.fullmatch(r"must be (\w+) to (\w+)", message):
            assert re.findall(r"duration\('(\w+)'\)", expression) == [*match.groups()], path
            assert parse_duration(match[1]) < parse_duration(match[2])
