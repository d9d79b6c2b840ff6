from datetime import timedelta
from ipaddress import ip_network

import pytest

from streamconsumer import __version__
from streamconsumer.errors import InvalidSettings
from streamconsumer.operator.settings import PREFIX, OperatorSettings


def test_all_settings_have_defaults() -> None:
    settings = OperatorSettings.from_env({})
    assert settings == OperatorSettings()
    assert settings.processor_image == f"streamconsumer-processor:{__version__}"


def test_every_setting_has_a_variable() -> None:
    variables = {
        "watch_namespaces": "shop, warehouse,",
        "processor_image": "registry.example/processor:2",
        "processor_image_pull_policy": "Always",
        "telemetry_endpoint": "http://collector:4318",
        "allowed_destinations": "127.0.0.0/8, ::1",
        "http_port": "0",
        "http_host": "127.0.0.1",
        "stream_interval": "1m",
        "lease": "system/operator",
        "log_level": "DEBUG",
    }
    assert set(variables) == set(OperatorSettings.model_fields)
    settings = OperatorSettings.from_env({PREFIX + name.upper(): text for name, text in variables.items()})
    assert settings.watch_namespaces == ["shop", "warehouse"]
    assert settings.allowed_destinations == [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    assert (settings.http_port, settings.stream_interval) == (0, timedelta(minutes=1))
    assert all(getattr(settings, name) != getattr(OperatorSettings(), name) for name in variables)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("http_port", "-1", "is '-1': must be greater than or equal to 0"),
        ("log_level", "loud", "is 'loud': must be 'DEBUG'"),
        ("stream_interval", "1ms", "is '1ms': must be 1s to 10m"),
        (
            "allowed_destinations",
            "10.0.0.0/8,localhost",
            "is '10.0.0.0/8,localhost': 'localhost' does not appear to be",
        ),
        ("allowed_destinations", "10.0.0.1/8", "is '10.0.0.1/8': 10.0.0.1/8 has host bits set; expected CIDRs such as"),
        ("http_port", "http", "is 'http': must be a valid integer"),
    ],
)
def test_an_invalid_variable_is_named_in_the_error(name: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        OperatorSettings.from_env({PREFIX + name.upper(): value})
    assert str(caught.value).startswith(f"{PREFIX}{name.upper()} {expected}")


def test_variables_of_pods_are_ignored() -> None:
    assert OperatorSettings.from_env({"STREAMCONSUMER_HTTP_PORT": "1"}) == OperatorSettings()
