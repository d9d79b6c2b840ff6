"""Allow-list of a report: undefined fields are omitted."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamconsumer.cli.report.allow_list import deployment_document, samples, streamconsumer_document
from streamconsumer.cli.report.run import secret_references
from tests.model.examples import manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)  # each value is put into several places
@given(value=JSON)
def test_undefined_fields_are_omitted_at_any_depth(value: Any) -> None:
    added = {"addedTomorrow": value}
    resource = manifest(
        redis={"url": "redis://redis:6379/0", **added},
        delivery={"breaker": added},
        env=[{"name": "A", **added}],
        **added,
    )
    resource |= {"status": {"conditions": [{"type": "Ready", **added}], **added}, **added}
    resource["metadata"] |= {"labels": added, "annotations": added, "managedFields": added}
    document = streamconsumer_document(resource)
    assert "addedTomorrow" not in str(document)
    assert document["spec"]["env"] == [{"name": "A"}]
    assert document["status"] == {"conditions": [{"type": "Ready"}]}


@settings(max_examples=30)  # each value is put into several places
@given(value=JSON)
def test_values_of_an_undefined_type_are_omitted(value: Any) -> None:
    spec = {"stream": {"inner": value}, "env": {"inner": value}, "delivery": [value], "podLabels": [value]}
    document = streamconsumer_document({"metadata": {}, "spec": spec})
    assert document["spec"] == {"stream": None, "env": None, "delivery": None, "podLabels": None}


def test_values_of_variables_labels_and_source_code_are_omitted() -> None:
    texts = {"key": "planted"}
    document = streamconsumer_document(
        manifest(
            handler={"source": "planted", "batch": True},
            env=[{"name": "A", "value": "planted"}],
            podLabels=texts,
            podAnnotations=texts,
            nodeSelector=texts,
            resources={"requests": {"cpu": "100m"}, "limits": {"memory": 1}},
        )
    )
    assert "planted" not in str(document)
    spec = document["spec"]
    assert (spec["handler"], spec["env"]) == ({"batch": True}, [{"name": "A"}])
    assert [spec[field] for field in ("podLabels", "podAnnotations", "nodeSelector")] == [["key"]] * 3
    assert spec["resources"] == {"requests": {"cpu": "100m"}, "limits": {"memory": 1}}


def test_environment_command_annotations_and_volumes_of_a_deployment_are_omitted() -> None:
    container = {"name": "a", "image": "b", "env": [{"name": "A", "value": "planted"}], "command": ["planted"]}
    metadata = {"name": "orders-consumer", "annotations": {"example.com/a": "planted"}, "labels": {"team": "planted"}}
    template = {"metadata": metadata, "spec": {"containers": [container], "volumes": [{"name": "planted"}]}}
    document = deployment_document({"metadata": metadata, "spec": {"replicas": 2, "template": template}})
    assert "planted" not in str(document)
    assert document["replicas"] == 2
    assert document["containers"] == [{"name": "a", "image": "b"}]


def test_samples_of_other_programs_and_resources_are_omitted() -> None:
    exposition = """# TYPE streamconsumer_group_pending gauge
streamconsumer_group_pending{resource_namespace="shop",resource_name="orders"} 3.0
streamconsumer_group_pending{resource_namespace="bank",resource_name="orders"} 4.0
# TYPE streamconsumer_operator_queue_depth gauge
streamconsumer_operator_queue_depth NaN
# TYPE other gauge
other{token="planted"} 1.0
"""
    values = {each["name"]: each["value"] for each in samples(exposition, ["shop/orders"])}
    assert values == {"streamconsumer_group_pending": 3.0, "streamconsumer_operator_queue_depth": "nan"}


def test_every_field_that_references_a_secret_is_returned() -> None:
    ref = {"name": "a", "key": "k"}
    spec = {
        "redis": {
            **{f"{field}SecretRef": {**ref, "name": field} for field in ("url", "username", "password")},
            "tls": {"caSecretRef": {**ref, "name": "ca"}, "certSecretRef": {"name": "cert"}},
            "sentinel": {"passwordSecretRef": {**ref, "name": "sentinel"}},
        },
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k", "optional": True}}}],
        "envFrom": [{"secretRef": {"name": "env-from"}}],
        "volumes": [{"secret": {"secretName": "volume"}}, {"projected": {"sources": [{"secret": {"name": "part"}}]}}],
    }
    names = ("url", "username", "password", "ca", "sentinel", "cert", "env-from", "volume", "part")
    managed: dict[str, Any] = {"f:valueFrom": {"f:secretKeyRef": {}}}
    assert {*secret_references({"metadata": {"managedFields": [managed]}, "spec": spec})} == {
        ("env", True),
        *((name, False) for name in names),
    }
