from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from streamconsumer.processor.telemetry import SpanRecorder, telemetry_from_env
from tests.cluster.collector import Collector
from tests.cluster.redis_servers import RedisServer
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod, Pod
from tests.processor.tracing import NewTelemetryKit, TelemetryKit


@pytest.fixture
async def group(redis_server: RedisServer) -> AsyncIterator[Group]:
    """An empty Redis 7.0 and the group that tests use on it."""
    on_server = Group(redis_server)
    yield on_server
    await on_server.close()


@pytest.fixture
async def any_group(any_redis: RedisServer) -> AsyncIterator[Group]:
    """The same on each kind of server, one after the other."""
    on_server = Group(any_redis)
    yield on_server
    await on_server.close()


@pytest.fixture
async def new_pod(tmp_path: Path, group: Group) -> AsyncIterator[NewPod]:
    """Pods over `group`'s server: `new_pod("pod_handlers:note", drain_timeout="3s")`."""
    pods: list[Pod] = []

    def new(handler: str, **settings: str) -> Pod:
        folder = tmp_path / f"pod-{len(pods)}"
        folder.mkdir()
        pods.append(Pod(folder, group.url, handler, **settings))
        return pods[-1]

    yield new
    for pod in pods:
        pod.remove()


@pytest.fixture
def new_kit(collector: Collector, group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewTelemetryKit]:
    """Telemetry as the OTEL_ variables of a pod make it; whatever is recorded must have been sent at the end."""
    made: list[TelemetryKit] = []
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)  # a process may do it once

    def new(environment: dict[str, str] | None = None, consumer: str = "pod-a", **options: Any) -> TelemetryKit:
        environ = {**collector.environment, **(environment or {})}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        address = group.manager().address
        telemetry = telemetry_from_env(
            environ, stream=STREAM, consumer_group=GROUP, consumer=consumer, server=lambda: address, **options
        )
        assert telemetry
        made.append(TelemetryKit(telemetry, providers[-1]))
        return made[-1]

    yield new
    for kit in made:
        assert kit.telemetry.shutdown()
        assert kit.telemetry.dropped == 0
    # Every one that was sent has arrived, also for the sake of the test that comes next.
    collector.wait_for_spans(sum(kit.telemetry.sent for kit in made))


@pytest.fixture
def kit(new_kit: NewTelemetryKit) -> TelemetryKit:
    return new_kit()


@pytest.fixture
def telemetry(kit: TelemetryKit) -> SpanRecorder:
    return kit.telemetry
