from typing import Any

import pytest

from streamconsumer.errors import InvalidResource
from streamconsumer.model.spec import CREDENTIALS_IN_URL, URL_MESSAGE, StreamConsumer
from tests.model.examples import Manifest, consumer, manifest, stored
from tests.model.rules import RULES_WITH_MESSAGE, RULES_WITHOUT_MESSAGE, VALID_MANIFESTS, Case


def rejection(invalid: Manifest) -> str:
    with pytest.raises(InvalidResource) as caught:
        StreamConsumer.parse(invalid)
    return str(caught.value)


@pytest.mark.parametrize("valid", VALID_MANIFESTS.values(), ids=VALID_MANIFESTS)
def test_valid_manifest_is_parsed(valid: Manifest) -> None:
    assert StreamConsumer.parse(valid).name == valid["metadata"]["name"]


@pytest.mark.parametrize("case", RULES_WITH_MESSAGE, ids=str)
def test_violated_rule_is_rejected_with_its_message(case: Case) -> None:
    error = rejection(case.invalid_manifest)
    assert error.startswith(f"shop/{case.invalid_manifest['metadata']['name']}: ")
    assert case.field in error
    assert case.message in error


@pytest.mark.parametrize("case", RULES_WITHOUT_MESSAGE, ids=str)
def test_wrong_type_or_bound_is_rejected_with_the_field(case: Case) -> None:
    assert f" {case.field}" in rejection(case.invalid_manifest)


def test_error_names_the_object_the_value_and_the_expectation() -> None:
    assert rejection(manifest(batchCount=0)) == (
        "shop/orders: spec.batchCount is 0: must be greater than or equal to 1"
    )


def test_missing_field_is_named() -> None:
    assert rejection(manifest(stream=...)) == "shop/orders: spec.stream is missing; it is required"


def test_unknown_field_is_named() -> None:
    assert rejection(manifest(affinity={})) == "shop/orders: spec.affinity is not a known field; check its spelling"


def test_parse_reports_all_errors() -> None:
    error = rejection(manifest(batchCount=0, drainTimeout="x", handler={}))
    assert all(field in error for field in ("spec.batchCount", "spec.drainTimeout", "spec.handler"))


def test_long_value_is_truncated_in_the_error() -> None:
    assert len(rejection(manifest(handler={"python": "x" * 100_000}))) < 400


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
def test_error_contains_no_credentials(redis: Any) -> None:
    assert "hunter2" not in rejection(manifest(redis=redis))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "orders"}},
            "orders: found apps/v1 Deployment",
        ),
        ({}, "document: found None None, expected streamconsumer.dev/v1alpha1 StreamConsumer"),
        (
            {**manifest(), "apiVersion": "streamconsumer.dev/v1"},
            "orders: found streamconsumer.dev/v1 StreamConsumer",
        ),
        ({**manifest(), "spec": None}, "spec.stream is missing"),
        ({**manifest(), "spec": "orders"}, "spec"),
        ({**manifest(), "metadata": None}, "metadata.name is missing"),
        ({**manifest(), "metadata": {}}, "metadata.name is missing"),
        ({**manifest(), "metadata": "orders"}, "metadata"),
    ],
    ids=str,
)
def test_malformed_document_is_rejected_with_a_message(document: Manifest, message: str) -> None:
    assert message in rejection(document)


def test_parsed_streamconsumer_has_its_metadata() -> None:
    parsed = StreamConsumer.parse(stored(manifest(), uid="u-1", generation=7))
    assert (parsed.namespace, parsed.name, parsed.uid, parsed.generation) == ("shop", "orders", "u-1", 7)


def test_manifest_without_a_namespace_is_in_the_default_namespace() -> None:
    document = manifest()
    del document["metadata"]["namespace"]
    assert StreamConsumer.parse(document).namespace == "default"


def test_explicit_defaults_equal_omitted_fields() -> None:
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
def test_url_with_an_unusable_host_port_or_database_is_rejected(url: str) -> None:
    assert URL_MESSAGE in rejection(manifest(redis={"url": url}))


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (
            "ssl_ca_certs=/run/hunter2",
            "spec.redis.url: option 1 after `?` (ssl_ca_certs) is not allowed; set redis.tls",
        ),
        (
            "ssl%5Fca_certs=/run/hunter2",
            "spec.redis.url: option 1 after `?` (ssl_ca_certs) is not allowed; set redis.tls",
        ),
        ("db=1&hunter2=1", "spec.redis.url: option 2 after `?` is not one of db, "),
        ("socket_timeout=hunter2", "spec.redis.url: option 1 after `?` (socket_timeout) must be a number of seconds"),
        ("pass%77ord=hunter2", f"spec.redis.url: {CREDENTIALS_IN_URL}"),
        ("user%6eame=hunter2", f"spec.redis.url: {CREDENTIALS_IN_URL}"),
        ("%64b=1", "spec.redis.url: must be redis://"),
    ],
)
def test_option_of_a_stored_url_is_named_but_not_quoted(option: str, problem: str) -> None:
    message = rejection(manifest(redis={"url": f"rediss://redis:6379?{option}"}))
    assert problem in message
    assert "hunter2" not in message


@pytest.mark.parametrize("end", ["", "/", "/0", "/15", "/2/", "?db=2", "/?socket_timeout=3"])
def test_url_with_an_optional_database_is_accepted(end: str) -> None:
    assert consumer(redis={"url": f"redis://redis:6379{end}"}).spec.redis.url == f"redis://redis:6379{end}"


@pytest.mark.parametrize("spec", [{"env": [{"name": f"V{n}"} for n in range(501)]}, {f"x{n}": {} for n in range(600)}])
def test_spec_with_too_many_items_is_invalid_without_further_validation(spec: Manifest) -> None:
    with pytest.raises(InvalidResource, match=r"found [56]0[0-9] items in a list or an object, expected at most 500"):
        consumer(**spec)
