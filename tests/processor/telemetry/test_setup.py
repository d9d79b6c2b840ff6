"""Set-up of tracing from the OTEL_ variables."""

import pytest

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.telemetry import telemetry_from_env


@pytest.mark.parametrize("endpoint", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}])
def test_otel_config_file_is_rejected_with_a_remedy(endpoint: dict[str, str]) -> None:
    with pytest.raises(InvalidSettings, match=r"OTEL_CONFIG_FILE is '/etc/otel.yaml'.*set OTEL_EXPORTER_OTLP_ENDPOINT"):
        telemetry_from_env({"OTEL_CONFIG_FILE": "/etc/otel.yaml", **endpoint})
    assert telemetry_from_env({"OTEL_CONFIG_FILE": "/etc/otel.yaml", "OTEL_SDK_DISABLED": "true"}) is None
