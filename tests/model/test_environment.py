import pytest
from hypothesis import given

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.env_codec import env_name, field_paths, from_env, to_env
from streamconsumer.model.processor_settings import (
    BOTH_TLS_FILES,
    ONE_CREDENTIAL_SOURCE,
    ONE_HANDLER,
    ONE_URL_SOURCE,
    SENTINEL_OR_CLUSTER,
    ProcessorSettings,
    SharedSettings,
)
from tests.model import strategies

SMALLEST = {
    "STREAMCONSUMER_STREAM": "orders",
    "STREAMCONSUMER_CONSUMER_GROUP": "billing",
    "STREAMCONSUMER_REDIS_URL": "redis://redis:6379/0",
    "STREAMCONSUMER_HANDLER_PYTHON": "shop.orders:handle",
    "STREAMCONSUMER_CONSUMER_NAME": "orders-consumer-1",
}


@given(strategies.settings)
def test_what_is_written_to_the_environment_is_read_back(settings: ProcessorSettings) -> None:
    assert from_env(ProcessorSettings, to_env(settings)) == settings


@given(strategies.settings)
def test_every_variable_belongs_to_us(settings: ProcessorSettings) -> None:
    assert all(name.startswith("STREAMCONSUMER_") for name in to_env(settings))


def test_no_two_fields_share_a_variable() -> None:
    variables = [env_name(*path) for path in field_paths(ProcessorSettings)]
    assert len(set(variables)) == len(variables)


def test_the_pod_reads_all_that_the_resource_says() -> None:
    assert set(field_paths(SharedSettings)) <= set(field_paths(ProcessorSettings))


def test_a_field_at_its_default_is_not_written() -> None:
    settings = from_env(ProcessorSettings, SMALLEST)
    assert to_env(settings) == SMALLEST


def test_the_variable_of_a_nested_field_is_its_path() -> None:
    settings = from_env(ProcessorSettings, {**SMALLEST, "STREAMCONSUMER_DELIVERY_MIN_IDLE": "1m30s"})
    assert settings.delivery.min_idle.total_seconds() == 90


def test_other_variables_are_not_looked_at() -> None:
    assert from_env(ProcessorSettings, {**SMALLEST, "PATH": "/bin", "STREAM": "other"}).stream == "orders"


IN_TWO_WAYS = {"STREAMCONSUMER_REDIS_URL", "STREAMCONSUMER_HANDLER_PYTHON"}


@pytest.mark.parametrize("missing", sorted(SMALLEST.keys() - IN_TWO_WAYS))
def test_a_missing_variable_is_named(missing: str) -> None:
    environ = {name: value for name, value in SMALLEST.items() if name != missing}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, environ)
    assert str(caught.value) == f"{missing} is missing; it is required"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("STREAMCONSUMER_BATCH_COUNT", "0", "is '0': must be greater than or equal to 1"),
        ("STREAMCONSUMER_BATCH_COUNT", "ten", "is 'ten': must be a valid integer"),
        ("STREAMCONSUMER_POLL_INTERVAL", "5", "is '5': must be a duration such as 500ms, 30s or 1m30s"),
        ("STREAMCONSUMER_POLL_INTERVAL", "2m", "is '2m': must be 100ms to 1m"),
        ("STREAMCONSUMER_DELIVERY_MIN_IDLE", "1ms", "is '1ms': must be 1s to 24h"),
        ("STREAMCONSUMER_ENCODING", "latin-1", "is 'latin-1': must be 'utf-8' or 'bytes'"),
        ("STREAMCONSUMER_HANDLER_PYTHON", "shop", "is 'shop': must name a function"),
        (
            "STREAMCONSUMER_DELIVERY_BACKOFF_MIN_DELAY",
            "1h",
            "STREAMCONSUMER_DELIVERY_BACKOFF: minDelay must not be longer",
        ),
        ("STREAMCONSUMER_DELIVERY_MAX_DELIVERIES", "0", "is '0': must be greater than or equal to 1"),
        ("STREAMCONSUMER_DELIVERY_TERMINAL_ERRORS", "ValueError,1x", "_1 is '1x': must name an exception"),
        ("STREAMCONSUMER_REDIS_SENTINEL_NODES", "one:26379,two", "_1 is 'two': must be a sentinel as host:port"),
    ],
)
def test_a_wrong_variable_is_named_with_what_was_found_and_expected(name: str, value: str, sentence: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, {**SMALLEST, name: value})
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(name.removesuffix("_MIN_DELAY"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, ONE_URL_SOURCE),
        ({"url": "redis://r", "url_file": "/f"}, ONE_URL_SOURCE),
        ({"url": "redis://r", "password": "p", "password_file": "/f"}, ONE_CREDENTIAL_SOURCE),
        ({"url": "redis://r", "sentinel_username": "u", "sentinel_username_file": "/f"}, ONE_CREDENTIAL_SOURCE),
        ({"url": "redis://r", "sentinel_master": "primary"}, SENTINEL_OR_CLUSTER),
        ({"url": "redis://r", "sentinel_nodes": "one:26379"}, SENTINEL_OR_CLUSTER),
        (
            {"url": "redis://r", "sentinel_master": "m", "sentinel_nodes": "one:1", "cluster": "true"},
            SENTINEL_OR_CLUSTER,
        ),
        ({"url": "rediss://r", "tls_key_file": "/f"}, BOTH_TLS_FILES),
    ],
    ids=str,
)
def test_what_is_said_of_redis_must_fit_together(given: dict[str, str], sentence: str) -> None:
    rest = {name: value for name, value in SMALLEST.items() if name != "STREAMCONSUMER_REDIS_URL"}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, rest | {env_name("redis", name): value for name, value in given.items()})
    assert str(caught.value) == f"STREAMCONSUMER_REDIS: {sentence}"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"python": "shop:handle", "http_url": "http://billing"},
        {"http_url": "http://billing", "batch": "true"},
    ],
    ids=str,
)
def test_what_is_said_of_the_handler_must_fit_together(given: dict[str, str]) -> None:
    rest = {name: value for name, value in SMALLEST.items() if name != "STREAMCONSUMER_HANDLER_PYTHON"}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, rest | {env_name("handler", name): value for name, value in given.items()})
    assert str(caught.value) == f"STREAMCONSUMER_HANDLER: {ONE_HANDLER}"


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, {"STREAMCONSUMER_BATCH_COUNT": "0"})
    told = str(caught.value).split("; ")
    assert sum("STREAMCONSUMER_" in line for line in told) == len(SMALLEST) + 1


def test_credentials_are_never_told() -> None:
    wrong = {**SMALLEST, "STREAMCONSUMER_REDIS_URL": "http://billing:hunter2@redis"}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, wrong)
    assert "hunter2" not in str(caught.value)
    right = from_env(
        ProcessorSettings,
        {
            **SMALLEST,
            "STREAMCONSUMER_REDIS_URL": "redis://billing:hunter2@redis",
            "STREAMCONSUMER_REDIS_PASSWORD": "hunter2",
        },
    )
    assert "hunter2" not in repr(right)
