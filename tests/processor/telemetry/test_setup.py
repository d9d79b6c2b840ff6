"""Set-up of tracing from the OTEL_ variables."""

from typing import Any

import pytest

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.telemetry import telemetry_from_env


@pytest.mark.parametrize("endpoint", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}])
def test_otel_config_file_is_rejected_with_a_remedy(endpoint: dict[str, str]) -> None:
    consumer: Any = {
        "stream": "orders",
        "consumer_group": "billing",
        "consumer": "pod-a",
        "server": lambda: ("redis", 6379),
    }
    with pytest.raises(
        InvalidSettings,
        match=r"OTEL_CONFIG_FILE is '/etc/otel.yaml'.*set variables such as OTEL_EXPORTER_OTLP_ENDPOINT",
    ):
        telemetry_from_env({"OTEL_CONFIG_FILE": "/etc/otel.yaml", **endpoint}, **consumer)
    disabled = {"OTEL_CONFIG_FILE": "/etc/otel.yaml", "OTEL_SDK_DISABLED": "true"}
    assert telemetry_from_env(disabled, **consumer) is None
