"""The allow-list of a bundle: fields that are not defined do not pass."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamconsumer.cli.report.collect import named
from streamconsumer.cli.report.documents import deployment, samples, streamconsumer
from tests.model.examples import manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)  # each value is put into several places
@given(value=JSON)
def test_a_field_that_is_not_defined_does_not_reach_a_bundle_at_any_depth(value: Any) -> None:
    added = {"addedTomorrow": value}
    given_manifest = manifest(
        redis={"url": "redis://redis:6379/0", **added},
        delivery={"breaker": added},
        env=[{"name": "A", **added}],
        **added,
    )
    given_manifest |= {"status": {"conditions": [{"type": "Ready", **added}], **added}, **added}
    given_manifest["metadata"] |= {"labels": added, "annotations": added, "managedFields": added}
    document = streamconsumer(given_manifest)
    assert "addedTomorrow" not in str(document)
    assert document["spec"]["env"] == [{"name": "A"}]
    assert document["status"] == {"conditions": [{"type": "Ready"}]}


@settings(max_examples=30)  # each value is put into several places
@given(value=JSON)
def test_a_value_of_another_type_than_the_defined_one_does_not_reach_a_bundle(value: Any) -> None:
    spec = {"stream": {"inner": value}, "env": {"inner": value}, "delivery": [value], "podLabels": [value]}
    document = streamconsumer({"metadata": {}, "spec": spec})
    assert document["spec"] == {"stream": None, "env": None, "delivery": None, "podLabels": None}


def test_values_of_variables_source_code_and_values_of_labels_do_not_reach_a_bundle() -> None:
    texts = {"key": "planted"}
    document = streamconsumer(
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


def test_a_deployment_loses_environment_command_annotations_and_volumes() -> None:
    container = {"name": "a", "image": "b", "env": [{"name": "A", "value": "planted"}], "command": ["planted"]}
    metadata = {"name": "orders-consumer", "annotations": {"example.com/a": "planted"}, "labels": {"team": "planted"}}
    template = {"metadata": metadata, "spec": {"containers": [container], "volumes": [{"name": "planted"}]}}
    document = deployment({"metadata": metadata, "spec": {"replicas": 2, "template": template}})
    assert "planted" not in str(document)
    assert document["replicas"] == 2
    assert document["containers"] == [{"name": "a", "image": "b"}]


def test_samples_of_other_programs_and_of_other_streamconsumers_are_left_out() -> None:
    exposition = """# TYPE streamconsumer_group_pending gauge
streamconsumer_group_pending{resource_namespace="shop",resource_name="orders"} 3.0
streamconsumer_group_pending{resource_namespace="bank",resource_name="orders"} 4.0
# TYPE streamconsumer_operator_queue_depth gauge
streamconsumer_operator_queue_depth NaN
# TYPE other gauge
other{token="planted"} 1.0
"""
    found = {each["name"]: each["value"] for each in samples(exposition, ["shop/orders"])}
    assert found == {"streamconsumer_group_pending": 3.0, "streamconsumer_operator_queue_depth": "nan"}


def test_each_field_that_names_a_secret_is_found() -> None:
    ref = {"name": "a", "key": "k"}
    spec = {
        "redis": {
            **{f"{what}SecretRef": {**ref, "name": what} for what in ("url", "username", "password")},
            "tls": {"caSecretRef": {**ref, "name": "ca"}, "certSecretRef": {"name": "cert"}},
            "sentinel": {"passwordSecretRef": {**ref, "name": "sentinel"}},
        },
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k", "optional": True}}}],
        "envFrom": [{"secretRef": {"name": "env-from"}}],
        "volumes": [{"secret": {"secretName": "volume"}}, {"projected": {"sources": [{"secret": {"name": "part"}}]}}],
    }
    names = ("url", "username", "password", "ca", "sentinel", "cert", "env-from", "volume", "part")
    managed: dict[str, Any] = {"f:valueFrom": {"f:secretKeyRef": {}}}
    assert {*named({"metadata": {"managedFields": [managed]}, "spec": spec})} == {
        ("env", True),
        *((name, False) for name in names),
    }
