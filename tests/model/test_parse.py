from typing import Any

import pytest

from streamconsumer.errors import InvalidResource
from streamconsumer.model.spec import URL_MESSAGE, StreamConsumer
from tests.model.examples import Manifest, consumer, manifest, stored
from tests.model.rules import RULES_WITH_MESSAGE, RULES_WITHOUT_MESSAGE, VALID_MANIFESTS, Case


def refusal(wrong: Manifest) -> str:
    with pytest.raises(InvalidResource) as caught:
        StreamConsumer.parse(wrong)
    return str(caught.value)


@pytest.mark.parametrize("right", VALID_MANIFESTS.values(), ids=VALID_MANIFESTS)
def test_what_is_right_is_parsed(right: Manifest) -> None:
    assert StreamConsumer.parse(right).name == right["metadata"]["name"]


@pytest.mark.parametrize("case", RULES_WITH_MESSAGE, ids=str)
def test_what_breaks_a_rule_is_refused_with_its_sentence(case: Case) -> None:
    told = refusal(case.invalid_manifest)
    assert told.startswith(f"shop/{case.invalid_manifest['metadata']['name']}: ")
    assert case.field in told
    assert case.message in told


@pytest.mark.parametrize("case", RULES_WITHOUT_MESSAGE, ids=str)
def test_what_has_the_wrong_shape_is_refused_and_the_field_is_named(case: Case) -> None:
    assert f" {case.field}" in refusal(case.invalid_manifest)


def test_a_refusal_names_the_object_what_was_found_and_what_was_expected() -> None:
    assert refusal(manifest(batchCount=0)) == ("shop/orders: spec.batchCount is 0: must be greater than or equal to 1")


def test_a_missing_field_is_named() -> None:
    assert refusal(manifest(stream=...)) == "shop/orders: spec.stream is missing; it is required"


def test_a_misspelt_field_is_named() -> None:
    assert refusal(manifest(batchcount=1)) == "shop/orders: spec.batchcount is not a field; check its spelling"


def test_every_problem_is_told_at_once() -> None:
    told = refusal(manifest(batchCount=0, drainTimeout="x", handler={}))
    assert all(field in told for field in ("spec.batchCount", "spec.drainTimeout", "spec.handler"))


def test_what_was_found_is_cut_short() -> None:
    assert len(refusal(manifest(handler={"python": "x" * 100_000}))) < 400


@pytest.mark.parametrize(
    "redis",
    [
        {"url": "redis://billing:hunter2@redis:6379/0"},
        {"url": "redsi://billing:hunter2@redis:6379/0"},
        {"url": "redis://redis", "password": "hunter2"},
        {"url": "redis://redis", "passwordSecretRef": "hunter2"},
        {"urlSecretRef": "hunter2"},
        {"urlSecretRef": {"name": "redis", "key": "url", "value": "hunter2"}},
        "hunter2",
        ["hunter2"],
    ],
    ids=str,
)
def test_a_refusal_never_prints_credentials(redis: Any) -> None:
    assert "hunter2" not in refusal(manifest(redis=redis))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "orders"}},
            "orders: is apps/v1 Deployment",
        ),
        ({}, "document: is None None; expected streamconsumer.dev/v1alpha1 StreamConsumer"),
        (
            {**manifest(), "apiVersion": "streamconsumer.dev/v1"},
            "orders: is streamconsumer.dev/v1 StreamConsumer",
        ),
        ({**manifest(), "spec": None}, "spec.stream is missing"),
        ({**manifest(), "spec": "orders"}, "spec"),
        ({**manifest(), "metadata": None}, "metadata.name is missing"),
        ({**manifest(), "metadata": {}}, "metadata.name is missing"),
        ({**manifest(), "metadata": "orders"}, "metadata"),
    ],
    ids=str,
)
def test_whatever_stands_in_a_file_is_refused_in_words(wrong: Manifest, sentence: str) -> None:
    assert sentence in refusal(wrong)


def test_a_parsed_streamconsumer_knows_who_it_is() -> None:
    parsed = StreamConsumer.parse(stored(manifest(), uid="u-1", generation=7))
    assert (parsed.namespace, parsed.name, parsed.uid, parsed.generation) == ("shop", "orders", "u-1", 7)


def test_a_file_without_a_namespace_is_of_the_default_one() -> None:
    given = manifest()
    del given["metadata"]["namespace"]
    assert StreamConsumer.parse(given).namespace == "default"


def test_left_out_and_default_are_the_same() -> None:
    assert consumer() == consumer(replicas=1, batchCount=10, pollInterval="5s", delivery={"minIdle": "30s"})


@pytest.mark.parametrize(
    "url",
    [
        "redis://[redis:6379/0",
        "redis://redis:99999/0",
        "redis://redis:0/0",
        "redis://redis:port/0",
        "redis://redis:6379/orders",
        "redis://redis:6379/0/1",
    ],
)
def test_a_url_in_which_host_port_or_database_is_unusable_is_refused(url: str) -> None:
    """The API server's rule lets it through."""
    assert URL_MESSAGE in refusal(manifest(redis={"url": url}))


@pytest.mark.parametrize("end", ["", "/", "/0", "/15", "/2/", "?db=2", "/?socket_timeout=3"])
def test_a_url_may_end_in_a_database(end: str) -> None:
    assert consumer(redis={"url": f"redis://redis:6379{end}"}).spec.redis.url == f"redis://redis:6379{end}"
