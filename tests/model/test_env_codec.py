import pytest
from hypothesis import given

from streamconsumer.errors import InvalidSettings
from streamconsumer.model.env_codec import env_name, field_paths, from_env, to_env, unknown_variables
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

MINIMAL = {
    "STREAMCONSUMER_STREAM": "orders",
    "STREAMCONSUMER_CONSUMER_GROUP": "billing",
    "STREAMCONSUMER_REDIS_URL": "redis://redis:6379/0",
    "STREAMCONSUMER_HANDLER_PYTHON": "shop.orders:handle",
    "STREAMCONSUMER_CONSUMER_NAME": "orders-consumer-1",
}


@given(strategies.settings)
def test_settings_survive_a_round_trip_through_the_environment(settings: ProcessorSettings) -> None:
    variables = to_env(settings)
    assert from_env(ProcessorSettings, variables) == settings
    assert all(name.startswith("STREAMCONSUMER_") for name in variables), "a variable lacks the prefix"


def test_every_field_has_its_own_variable() -> None:
    variables = [env_name(*path) for path in field_paths(ProcessorSettings)]
    assert len(set(variables)) == len(variables)


def test_pod_reads_every_shared_setting() -> None:
    assert set(field_paths(SharedSettings)) <= set(field_paths(ProcessorSettings))


def test_field_at_its_default_is_not_written() -> None:
    settings = from_env(ProcessorSettings, MINIMAL)
    assert to_env(settings) == MINIMAL


def test_nested_field_is_read_from_the_variable_of_its_path() -> None:
    settings = from_env(ProcessorSettings, {**MINIMAL, "STREAMCONSUMER_DELIVERY_MIN_IDLE": "1m30s"})
    assert settings.delivery.min_idle.total_seconds() == 90


def test_variables_without_the_prefix_are_ignored() -> None:
    assert from_env(ProcessorSettings, {**MINIMAL, "PATH": "/bin", "STREAM": "other"}).stream == "orders"


KNOWN = [env_name(*path) for path in field_paths(ProcessorSettings)]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("STREAMCONSUMER_CONCURENCY", "did you mean STREAMCONSUMER_CONCURRENCY?"),
        ("STREAMCONSUMER_MAX_DELIVERIES", "did you mean STREAMCONSUMER_DELIVERY_MAX_DELIVERIES?"),
        ("STREAMCONSUMER_log_level", "did you mean STREAMCONSUMER_LOG_LEVEL?"),
        ("STREAMCONSUMER_GROUP", "did you mean STREAMCONSUMER_CONSUMER_GROUP?"),
        ("STREAMCONSUMER_", "remove the variable"),
        ("STREAMCONSUMER_X", "remove the variable"),
    ],
)
def test_unknown_variable_is_named_with_a_remedy(name: str, remedy: str) -> None:
    assert unknown_variables({**MINIMAL, name: "s3cret", "PATH": "/bin"}, KNOWN) == {name: remedy}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STREAMCONSUMER_SERVICE_HOST", "10.0.0.1"),
        ("STREAMCONSUMER_REDIS_SERVICE_PORT", "6379"),
        ("STREAMCONSUMER_REDIS_SERVICE_PORT_MAIN", "6379"),
        ("STREAMCONSUMER_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("STREAMCONSUMER_REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("STREAMCONSUMER_REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_variables_of_a_service_are_no_unknown_settings(name: str, value: str) -> None:
    assert unknown_variables({**MINIMAL, name: value}, KNOWN) == {}


def test_every_variable_of_a_setting_is_known() -> None:
    assert unknown_variables(dict.fromkeys(KNOWN, "x"), KNOWN) == {}


WITH_ALTERNATIVES = {"STREAMCONSUMER_REDIS_URL", "STREAMCONSUMER_HANDLER_PYTHON"}


@pytest.mark.parametrize("missing", sorted(MINIMAL.keys() - WITH_ALTERNATIVES))
def test_missing_variable_is_named(missing: str) -> None:
    environ = {name: value for name, value in MINIMAL.items() if name != missing}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, environ)
    assert str(caught.value) == f"{missing} is missing; it is required"


@pytest.mark.parametrize(
    ("name", "value", "message"),
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
        (
            "STREAMCONSUMER_REDIS_SENTINEL_NODES",
            "one:26379,two",
            "_1 is 'two': must be the address of a sentinel, as host:port",
        ),
    ],
)
def test_error_names_the_variable_the_value_and_the_expectation(name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, {**MINIMAL, name: value})
    assert message in str(caught.value)
    assert str(caught.value).startswith(name.removesuffix("_MIN_DELAY"))


@pytest.mark.parametrize(
    ("values", "message"),
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
def test_contradictory_redis_settings_are_rejected(values: dict[str, str], message: str) -> None:
    rest = {name: value for name, value in MINIMAL.items() if name != "STREAMCONSUMER_REDIS_URL"}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, rest | {env_name("redis", name): value for name, value in values.items()})
    assert str(caught.value) == f"STREAMCONSUMER_REDIS: {message}"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"python": "shop:handle", "http_url": "http://billing"},
        {"http_url": "http://billing", "batch": "true"},
    ],
    ids=str,
)
def test_contradictory_handler_settings_are_rejected(values: dict[str, str]) -> None:
    rest = {name: value for name, value in MINIMAL.items() if name != "STREAMCONSUMER_HANDLER_PYTHON"}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, rest | {env_name("handler", name): value for name, value in values.items()})
    assert str(caught.value) == f"STREAMCONSUMER_HANDLER: {ONE_HANDLER}"


def test_from_env_reports_all_errors() -> None:
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, {"STREAMCONSUMER_BATCH_COUNT": "0"})
    lines = str(caught.value).split("; ")
    assert sum("STREAMCONSUMER_" in line for line in lines) == len(MINIMAL) + 1


def test_errors_and_repr_contain_no_credentials() -> None:
    invalid = {**MINIMAL, "STREAMCONSUMER_REDIS_URL": "http://billing:hunter2@redis"}
    with pytest.raises(InvalidSettings) as caught:
        from_env(ProcessorSettings, invalid)
    assert "hunter2" not in str(caught.value)
    settings = from_env(
        ProcessorSettings,
        {
            **MINIMAL,
            "STREAMCONSUMER_REDIS_URL": "redis://billing:hunter2@redis",
            "STREAMCONSUMER_REDIS_PASSWORD": "hunter2",
        },
    )
    assert "hunter2" not in repr(settings)
