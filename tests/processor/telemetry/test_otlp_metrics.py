"""Metrics of a pod in a real collector, and the effect of a missing collector on the drain."""

import json
import signal
import time
from typing import Any

import pytest

from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.telemetry.otlp_metrics import exporter_from_env
from tests.cluster.collector import Collector
from tests.cluster.processes import free_port
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod


@pytest.fixture
def collected_metrics(collector: Collector) -> "CollectedMetrics":
    collector.clear()
    return CollectedMetrics(collector)


class CollectedMetrics:
    """Latest export of each metric, by name."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def latest(self) -> dict[str, dict[str, Any]]:
        metrics: dict[str, dict[str, Any]] = {}
        for line in self._collector.text("metrics").splitlines():
            for resource in json.loads(line)["resourceMetrics"]:
                resource_attributes = attributes(resource["resource"])
                for scope in resource["scopeMetrics"]:
                    metrics |= {
                        metric["name"]: {**metric, "resource": resource_attributes} for metric in scope["metrics"]
                    }
        return metrics


def attributes(owner: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in owner.get("attributes", [])}


def point(metric: dict[str, Any]) -> dict[str, Any]:
    [data_point] = (metric.get("sum") or metric["histogram"])["dataPoints"]
    return dict(data_point)


async def test_metrics_reach_the_collector_with_the_conventional_names(
    group: Group, new_pod: NewPod, collected_metrics: CollectedMetrics, collector: Collector
) -> None:
    await group.add(5)
    pod = new_pod("pod_handlers:log_handled").start(
        environment={**collector.environment, "OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_SERVICE_NAME": "orders"}
    )
    await eventually(lambda: "streamconsumer.acknowledged" in collected_metrics.latest(), 20)
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    await eventually(lambda: point(collected_metrics.latest()["streamconsumer.acknowledged"])["asInt"] == "5", 5)
    metrics = collected_metrics.latest()

    consumed = metrics["messaging.client.consumed.messages"]
    assert (consumed["unit"], consumed["sum"]["isMonotonic"], point(consumed)["asInt"]) == ("{message}", True, "5")
    metric_attributes = attributes(point(consumed))
    assert metric_attributes["messaging.operation.name"] == "receive"
    assert (metric_attributes["messaging.system"], metric_attributes["messaging.destination.name"]) == ("redis", STREAM)
    assert metric_attributes["messaging.consumer.group.name"] == GROUP
    assert {"server.address", "server.port"} <= set(metric_attributes)

    duration = metrics["messaging.process.duration"]
    assert (duration["unit"], point(duration)["count"]) == ("s", "5")
    assert point(duration)["explicitBounds"][:3] == [0.005, 0.01, 0.025]
    assert attributes(point(duration))["messaging.operation.name"] == "process"
    assert point(metrics["streamconsumer.queue.duration"])["count"] == "5"
    assert not metrics["streamconsumer.in_flight"]["sum"].get("isMonotonic", False)
    assert metrics["streamconsumer.acknowledged"]["resource"]["service.name"] == "orders"


async def test_unreachable_collector_does_not_delay_the_exit(group: Group, new_pod: NewPod) -> None:
    await group.add()
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    pod = new_pod("pod_handlers:log_handled").start(environment=nowhere)
    await pod.wait_for_log("processor started")
    await group.wait_settled()
    started_at = time.monotonic()
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert time.monotonic() - started_at < TIMEOUT_SECONDS


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"},
    ],
)
def test_no_exporter_is_created_without_a_metrics_endpoint(environment: dict[str, str]) -> None:
    assert exporter_from_env(environment, Metrics(), dict) is None


@pytest.mark.parametrize(("text", "seconds"), [("200", 0.2), ("", 60.0), ("soon", 60.0), ("-1", 60.0)])
def test_invalid_interval_selects_the_default(text: str, seconds: float) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRIC_EXPORT_INTERVAL": text}
    exporter = exporter_from_env(environment, Metrics(), dict)
    assert exporter is not None
    assert exporter.interval_seconds == seconds
