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
    """The schema and all below it, each with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from schemas(schema[word], f"{path}[]")


ALL = dict(schemas(ROOT))
OURS = {path: schema for path, schema in ALL.items() if path.startswith((".spec", ".status"))}


def test_the_definition_is_smaller_than_60_kilobytes() -> None:
    assert len(json.dumps(CRD, separators=(",", ":")).encode()) < 60_000  # as kubectl apply keeps it in an annotation


def test_its_names_are_the_fixed_ones() -> None:
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


@pytest.mark.parametrize("path", OURS)
def test_every_schema_is_structural(path: str) -> None:
    schema = OURS[path]
    assert schema.get("type") in {"object", "array", "string", "integer", "number", "boolean"} or schema.get(
        "x-kubernetes-int-or-string"
    )
    assert not {"$ref", "$defs", "title", "anyOf", "allOf", "oneOf", "const", "exclusiveMinimum"} & set(schema)
    assert schema.get("type") != "array" or "items" in schema


@pytest.mark.parametrize("path", [path for path in OURS if not path.endswith("[]")])
def test_every_field_is_described_in_sentences(path: str) -> None:
    assert re.match(r"^[A-Z`].*\.$", OURS[path]["description"], re.DOTALL), OURS[path].get("description")


@pytest.mark.parametrize("path", [path for path in OURS if path.startswith(".spec")])
def test_what_a_user_writes_is_bounded(path: str) -> None:
    """An unbounded list or text makes CEL too dear for the API server, and etcd full."""
    schema = OURS[path]
    bounds = {"string": {"maxLength", "enum"}, "array": {"maxItems"}, "integer": {"maximum"}}
    wanted = bounds.get(schema.get("type", ""))
    assert wanted is None or wanted & set(schema)
    assert "additionalProperties" not in schema or "maxProperties" in schema


@pytest.mark.parametrize("column", PRINTER_COLUMNS, ids=lambda column: column[0])
def test_every_printer_column_shows_a_field_that_exists(column: tuple[str, str, str, int, str]) -> None:
    path = column[2]
    if path == ".metadata.creationTimestamp":
        return
    found = re.fullmatch(r"(\.status\.conditions)\[\?\(@\.type==\"(\w+)\"\)\](\.\w+)", path)
    assert (f"{found[1]}[]{found[3]}" if found else path) in ALL


def test_the_scale_subresource_points_at_fields_that_exist() -> None:
    scale = VERSION["subresources"]["scale"]
    assert {ALL[path]["type"] for path in scale.values()} == {"integer", "string"}
    assert VERSION["subresources"]["status"] == {}


def test_conditions_are_merged_by_type_and_variables_by_name() -> None:
    assert ALL[".status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert ALL[".spec.env"]["x-kubernetes-list-map-keys"] == ["name"]
    assert {ALL[path]["x-kubernetes-list-type"] for path in (".status.conditions", ".spec.env")} == {"map"}


def test_a_condition_has_all_that_kubernetes_asks_of_one() -> None:
    kubernetes = {"type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"}
    assert set(ALL[".status.conditions[]"]["properties"]) == kubernetes
    assert ALL[".status.conditions[].lastTransitionTime"]["format"] == "date-time"
    assert set(get_args(Condition.model_fields["status"].annotation)) == {"True", "False", "Unknown"}


def test_nothing_may_be_null() -> None:
    """The API server drops a null by itself; under the scale subresource it even refuses a nullable one."""
    assert not [path for path, schema in ALL.items() if "nullable" in schema]


def defaults(kind: type[BaseModel], path: str) -> Iterator[tuple[str, Any]]:
    for field in kind.model_fields.values():
        if field.is_required():
            continue
        where, default = f"{path}.{field.alias}", field.get_default()
        if isinstance(default, BaseModel):
            yield from defaults(type(default), where)
        elif isinstance(default, str | int):
            yield where, default
        elif default not in (None, [], {}):
            yield where, format_duration(default)


@pytest.mark.parametrize(("path", "default"), [*defaults(StreamConsumerSpec, ".spec"), *defaults(Status, ".status")])
def test_the_schema_and_the_model_have_the_same_defaults(path: str, default: Any) -> None:
    assert ALL[path]["default"] == default


def test_no_object_of_the_spec_has_a_default() -> None:
    """The status has: that nobody has looked yet."""
    objects = [path for path, schema in ALL.items() if schema.get("type") == "object" and "default" in schema]
    assert objects == [".status"]


def cel_rules() -> list[tuple[str, str, str]]:
    """Path, expression and sentence of every rule of the definition."""
    return [
        (path, rule["rule"], rule["message"])
        for path, schema in ALL.items()
        for rule in schema.get("x-kubernetes-validations", [])
    ]


def test_every_rule_has_a_sentence() -> None:
    assert all(len(sentence.split()) > 3 for _, _, sentence in cel_rules())


def test_every_rule_is_known_to_be_refused_by_pydantic_too() -> None:
    """All but those on changes: a manifest alone does not show what it was."""
    here = {sentence for _, expression, sentence in cel_rules() if "oldSelf" not in expression}
    assert here == {case.message for case in RULES_WITH_MESSAGE}


def test_what_names_the_group_and_the_stream_never_changes() -> None:
    assert {path for path, expression, _ in cel_rules() if expression == "self == oldSelf"} == {
        ".spec.stream",
        ".spec.consumerGroup",
    }


def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield kind
    for field in kind.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models(inner)


@pytest.mark.parametrize("kind", dict.fromkeys(models(StreamConsumerSpec)), ids=lambda kind: kind.__name__)
def test_every_rule_of_a_model_has_a_twin_in_the_schema(kind: type[BaseModel]) -> None:
    """A validator of a whole model stands beside CEL on that model, in its schema's own validations."""
    own = kind.model_json_schema().get("x-kubernetes-validations", [])
    assert bool(kind.__pydantic_decorators__.model_validators) == bool(own)


def test_bounds_of_durations_are_told_as_they_are_checked() -> None:
    for path, expression, sentence in cel_rules():
        if found := re.fullmatch(r"must be (\w+) to (\w+)", sentence):
            assert re.findall(r"duration\('(\w+)'\)", expression) == [*found.groups()], path
            assert parse_duration(found[1]) < parse_duration(found[2])
