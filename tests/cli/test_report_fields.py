"""The allow-list of a bundle: fields that are not named do not pass."""

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.cli.cluster.facts import Facts
from streamconsumer.cli.doctor.facts import Diagnosis
from streamconsumer.cli.report import fields
from streamconsumer.cli.report.fields import Leaf, Shape, allowed
from streamconsumer.cli.report.samples import samples
from streamconsumer.model.crd import custom_resource_definition
from tests.model.examples import manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def paths(shape: Shape, above: str = "") -> Iterator[str]:
    match shape:
        case dict():
            for name, inner in shape.items():
                yield f"{above}.{name}"
                yield from paths(inner, f"{above}.{name}")
        case [inner]:
            yield from paths(inner, above)


def defined(schema: Any, above: str = "") -> Iterator[str]:
    """The paths of a schema in the form of OpenAPI."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{above}.{name}"
        yield from defined(inner, f"{above}.{name}")
    if "items" in schema:
        yield from defined(schema["items"], above)


def test_each_allowed_field_of_a_streamconsumer_is_in_the_definition() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    known = {*defined(version["schema"]["openAPIV3Schema"])}
    named = {*paths({"spec": fields.SPEC, "status": fields.STATUS})}
    assert named - known == set()


def test_each_allowed_field_of_status_and_doctor_is_in_their_documents() -> None:
    for model, shape in ((Facts, fields.STATUS_OUTPUT), (Diagnosis, fields.DOCTOR_OUTPUT)):
        schema = model.model_json_schema(by_alias=True, mode="serialization")
        known = {*_resolved(schema, schema["$defs"])}
        assert {*paths(shape)} - known - {".findings"} - {f".findings.{each}" for each in FINDING} == set()


FINDING = ("severity", "object", "found", "expected", "advice")


def _resolved(schema: Any, definitions: Any, above: str = "") -> Iterator[str]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for inner in schema.get("anyOf", []):
        yield from _resolved(inner, definitions, above)
    if "items" in schema:
        yield from _resolved(schema["items"], definitions, above)
    for name, inner in schema.get("properties", {}).items():
        yield f"{above}.{name}"
        yield from _resolved(inner, definitions, f"{above}.{name}")


@given(value=JSON)
def test_a_field_that_is_not_named_does_not_reach_a_bundle_at_any_depth(value: Any) -> None:
    added = {"addedTomorrow": value}
    given_manifest = manifest(
        redis={"url": "redis://redis:6379/0", **added},
        delivery={"breaker": added},
        env=[{"name": "A", **added}],
        **added,
    )
    given_manifest |= {"status": {"conditions": [{"type": "Ready", **added}], **added}, **added}
    given_manifest["metadata"] |= {"labels": added, "managedFields": added}
    document = allowed(given_manifest, fields.STREAMCONSUMER, str)
    assert "addedTomorrow" not in str(document)
    assert document["spec"]["env"] == [{"name": "A"}]
    assert document["status"] == {"conditions": [{"type": "Ready"}]}


@given(value=JSON)
def test_a_value_of_another_type_than_the_allowed_one_does_not_reach_a_bundle(value: Any) -> None:
    document = allowed({"text": {"inner": value}, "keys": [value], "list": {"inner": value}}, SHAPE, str)
    assert document == {"text": None, "keys": None, "list": None}


SHAPE: Shape = {"text": Leaf.VALUE, "keys": Leaf.KEYS, "list": [Leaf.VALUE]}


def test_a_deployment_loses_environment_command_and_foreign_annotations() -> None:
    container = {"name": "a", "image": "b", "env": [{"name": "A", "value": "planted"}], "command": ["planted"]}
    metadata = {"name": "orders-consumer", "annotations": {"example.com/a": "planted"}, "labels": {"team": "planted"}}
    template = {"metadata": metadata, "spec": {"containers": [container], "volumes": [{"name": "planted"}]}}
    document = allowed({"metadata": metadata, "spec": {"template": template}}, fields.DEPLOYMENT, str)
    assert "planted" not in str(document)
    assert document["spec"]["template"]["spec"]["containers"] == [{"name": "a", "image": "b"}]


def test_samples_of_other_programs_and_of_other_streamconsumers_are_left_out() -> None:
    exposition = """# TYPE streamconsumer_group_pending gauge
streamconsumer_group_pending{resource_namespace="shop",resource_name="orders"} 3.0
streamconsumer_group_pending{resource_namespace="bank",resource_name="orders"} 4.0
# TYPE streamconsumer_operator_queue_depth gauge
streamconsumer_operator_queue_depth NaN
# TYPE other gauge
other{token="planted"} 1.0
"""
    found = {each["name"]: each["value"] for each in samples(exposition, {("shop", "orders")})}
    assert found == {"streamconsumer_group_pending": 3.0, "streamconsumer_operator_queue_depth": "nan"}
