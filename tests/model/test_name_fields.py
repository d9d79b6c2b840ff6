"""Hostile text in every text field and every map key of the spec."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconsumer.errors import InvalidResource
from streamconsumer.model.name_fields import LABEL_KEY, NAMESPACE, OBJECT_NAME, REDIS_NAME
from streamconsumer.model.spec import StreamConsumer
from tests.model.examples import Manifest, manifest
from tests.model.string_fields import (
    ATTACKS,
    CONTROL_ATTACKS,
    FREE_TEXTS,
    FULL_SPECS,
    map_fields,
    string_fields,
    with_value,
)

FIELDS = dict(string_fields())
MAPS = dict(map_fields())
NAMES = [field for field in FIELDS if field not in FREE_TEXTS]

REDIS_TEXTS = ("stream", "consumerGroup", "orderingKey", "delivery.deadLetterStream", "telemetry.contextField")
"""Names in Redis: any text except control characters."""

QUALIFIED = [field for field in FIELDS if field.endswith(("{key}.key", "tolerations.0.key", "topologyKey"))]
NO_ATTACKS = {
    **{field: {"a path"} for field in (*QUALIFIED, "image")},
    "telemetry.baggage.0": {"a parent", "this folder"},
    "redis.sentinel.masterName": {"a parent", "this folder", "a flag"},
    **{field: set(ATTACKS) - set(CONTROL_ATTACKS) for field in REDIS_TEXTS},
}
"""Valid values: a label key and an image contain a slash, and the other fields are never part of a path."""

UNREADABLE_CONTROLS = [
    *(chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))),
    *"\u2028\u2029\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]


@pytest.mark.parametrize("full", FULL_SPECS, ids=["url", "source", "http"])
def test_full_spec_is_valid(full: Manifest) -> None:
    StreamConsumer.parse(manifest(**full))


@pytest.mark.parametrize("field", FIELDS)
def test_every_text_field_is_in_a_full_spec(field: str) -> None:
    assert with_value(field, "x")


@pytest.mark.parametrize("field", NAMES)
def test_name_has_a_pattern_in_the_schema(field: str) -> None:
    is_key = field.endswith("{key}.key")
    schema = MAPS[field.removesuffix(".{key}.key")] if is_key else FIELDS[field]
    rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", [])]
    assert {"enum", "pattern"} & set(schema) or any("matches(" in each for each in rules)


@pytest.mark.parametrize("field", NAMES)
def test_each_hostile_name_is_refused(field: str) -> None:
    for attack in ATTACKS.keys() - set(NO_ATTACKS.get(field, ())):
        with pytest.raises(InvalidResource) as caught:
            StreamConsumer.parse(with_value(field, ATTACKS[attack]))
        assert str(caught.value).isprintable(), attack
        assert len(str(caught.value)) < 1000, attack


@pytest.mark.parametrize("control", UNREADABLE_CONTROLS, ids=ascii)
def test_control_character_is_refused_in_a_redis_name(control: str) -> None:
    for text in (control, f"a{control}", f"{control}b", f"a{control}b"):
        assert not REDIS_NAME.matches(text)


@given(st.text(st.characters(exclude_categories=["Cc", "Zl", "Zp", "Cs"], exclude_characters=UNREADABLE_CONTROLS)))
def test_any_other_text_is_a_redis_name(text: str) -> None:
    assert REDIS_NAME.matches(text)


@pytest.mark.parametrize("field", ["stream", "redis.passwordSecretRef.name", "nodeSelector.{key}.key"])
def test_half_of_a_surrogate_pair_is_refused(field: str) -> None:
    with pytest.raises(InvalidResource):
        StreamConsumer.parse(with_value(field, "a\ud800b"))


@pytest.mark.parametrize("name", ["../x", "a/b", "a\n", "a%2fb", "A", ".", "..", "", "a..b", "-a", "a.-b", "x" * 51])
def test_hostile_name_of_a_resource_is_refused(name: str) -> None:
    with pytest.raises(InvalidResource, match="name"):
        StreamConsumer.parse(manifest(name))


@pytest.mark.parametrize("namespace", ["../x", "a/b", "a\n", "a.b", "A", "..", "x" * 64])
def test_hostile_namespace_of_a_resource_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidResource, match=r"metadata\.namespace"):
        StreamConsumer.parse(manifest(namespace=namespace))


def test_generation_that_is_not_a_number_is_refused() -> None:
    document = manifest()
    document["metadata"]["generation"] = "first"
    with pytest.raises(InvalidResource, match=r"metadata\.generation is 'first': must be an integer"):
        StreamConsumer.parse(document)


@pytest.mark.parametrize(
    ("field", "key"),
    [
        *(("redis.passwordSecretRef.key", key) for key in (".dockerconfigjson", "tls.crt", "_", "A-b_c.d", ".x..")),
        *(("redis.passwordSecretRef.name", name) for name in ("a", "a.b-c", "0", "x" * 253)),
        *(("image", image) for image in ("shop", "r.example:5000/a/b:1.4", "[::1]:5000/a@sha256:0a", "a_b/c__d:x.y")),
        *(("redis.sentinel.nodes.0", node) for node in ("a_b:1", "s.example.com.:65535", "[fd00::1]:26379")),
        *(("nodeSelector.{key}.key", key) for key in ("a", "example.com/A.b_c", "kubernetes.io/arch")),
        *(("telemetry.endpoint", url) for url in ("http://c:4318", "https://[fd00::1]:4318/v1?a=b")),
        *(("stream", text) for text in ("заказы", "a b", "{a}:b", "🦊", "../x", "\u00a0", "e\u0301", "a\u200db")),
    ],
)
def test_usual_name_is_accepted(field: str, key: str) -> None:
    StreamConsumer.parse(with_value(field, key))


@pytest.mark.parametrize("address", ["a:0", "a:65536", "a:99999", "-a:1", ".:1", "..:1", "[x]:1", "a:1:1", ":01"])
def test_unusable_sentinel_node_is_refused(address: str) -> None:
    with pytest.raises(InvalidResource, match="must be the address of a sentinel, as host:port"):
        StreamConsumer.parse(with_value("redis.sentinel.nodes.0", address))


@given(st.text())
def test_name_of_an_object_never_leaves_its_path_segment(text: str) -> None:
    for pattern in (OBJECT_NAME, NAMESPACE):
        assert not pattern.matches(text) or (
            set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") and text[0] != "."
        )
    assert not LABEL_KEY.matches(text) or text.count("/") <= 1
