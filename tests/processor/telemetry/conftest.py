from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from streamconsumer.processor.telemetry import SpanRecorder, telemetry_from_env
from tests.cluster.collector import Collector
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.telemetry.telemetry_kit import NewTelemetryKit, TelemetryKit


@pytest.fixture
def new_telemetry_kit(collector: Collector, group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewTelemetryKit]:
    """Build telemetry from the OTEL_ variables of a pod. At the end, all recorded spans must have been sent."""
    kits: list[TelemetryKit] = []
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)  # allowed once per process

    def new(environment: dict[str, str] | None = None, consumer: str = "pod-a", **options: Any) -> TelemetryKit:
        environ = {**collector.environment, **(environment or {})}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        address = group.manager().address
        telemetry = telemetry_from_env(
            environ, stream=STREAM, consumer_group=GROUP, consumer=consumer, server=lambda: address, **options
        )
        assert telemetry
        kits.append(TelemetryKit(telemetry, providers[-1]))
        return kits[-1]

    yield new
    for kit in kits:
        assert kit.telemetry.shutdown()
        assert kit.telemetry.dropped == 0
    # Wait for every span that was sent, so that none arrives during the next test.
    collector.wait_for_spans(sum(kit.telemetry.sent for kit in kits))


@pytest.fixture
def telemetry_kit(new_telemetry_kit: NewTelemetryKit) -> TelemetryKit:
    return new_telemetry_kit()


@pytest.fixture
def telemetry(telemetry_kit: TelemetryKit) -> SpanRecorder:
    return telemetry_kit.telemetry
