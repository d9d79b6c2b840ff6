"""The figures of a pod as they reach a real collector, and what they cost the drain when there is none."""

import json
import signal
import time
from typing import Any

import pytest

from streamconsumer.processor.metrics import QUEUE_BUCKETS_SECONDS, Metrics
from streamconsumer.processor.telemetry.otlp_metrics import exporter_from_env
from tests.cluster.collector import Collector
from tests.cluster.processes import free_port
from tests.processor.eventually import TIMEOUT_SECONDS, eventually
from tests.processor.group import GROUP, STREAM, Group
from tests.processor.pod import NewPod


@pytest.fixture
def figures(collector: Collector) -> "Figures":
    collector.clear()
    return Figures(collector)


class Figures:
    """What arrived last, by the name of the metric."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def latest(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for line in self._collector.text("metrics").splitlines():
            for resource in json.loads(line)["resourceMetrics"]:
                about = attributes(resource["resource"])
                for scope in resource["scopeMetrics"]:
                    found |= {each["name"]: {**each, "resource": about} for each in scope["metrics"]}
        return found


def attributes(of: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in of.get("attributes", [])}


def point(metric: dict[str, Any]) -> dict[str, Any]:
    [found] = (metric.get("sum") or metric["histogram"])["dataPoints"]
    return dict(found)


async def test_what_a_pod_counted_reaches_the_collector_under_the_names_of_the_conventions(
    group: Group, new_pod: NewPod, figures: Figures, collector: Collector
) -> None:
    await group.add(5)
    pod = new_pod("pod_handlers:note").start(
        environment={**collector.environment, "OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_SERVICE_NAME": "orders"}
    )
    await eventually(lambda: "streamconsumer.acknowledged" in figures.latest(), 20)
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    await eventually(lambda: point(figures.latest()["streamconsumer.acknowledged"])["asInt"] == "5", 5)
    found = figures.latest()

    consumed = found["messaging.client.consumed.messages"]
    assert (consumed["unit"], consumed["sum"]["isMonotonic"], point(consumed)["asInt"]) == ("{message}", True, "5")
    about = attributes(point(consumed))
    assert about["messaging.operation.name"] == "receive"
    assert (about["messaging.system"], about["messaging.destination.name"]) == ("redis", STREAM)
    assert about["messaging.consumer.group.name"] == GROUP
    assert {"server.address", "server.port"} <= set(about)

    duration = found["messaging.process.duration"]
    assert (duration["unit"], point(duration)["count"]) == ("s", "5")
    assert point(duration)["explicitBounds"][:3] == [0.005, 0.01, 0.025]
    assert attributes(point(duration))["messaging.operation.name"] == "process"
    assert point(found["streamconsumer.queue.duration"])["count"] == "5"
    assert not found["streamconsumer.in_flight"]["sum"].get("isMonotonic", False)
    assert found["streamconsumer.acknowledged"]["resource"]["service.name"] == "orders"


async def test_a_dead_collector_does_not_hold_up_the_end_of_a_pod(group: Group, new_pod: NewPod) -> None:
    await group.add()
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    pod = new_pod("pod_handlers:note").start(environment=nowhere)
    await pod.wait_for_log("processor started")
    await group.wait_settled()
    began = time.monotonic()
    pod.signal(signal.SIGTERM)
    assert await pod.wait_for_exit() == 0
    assert time.monotonic() - began < TIMEOUT_SECONDS


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"},
    ],
)
def test_without_an_endpoint_for_figures_none_are_sent(environment: dict[str, str]) -> None:
    assert exporter_from_env(environment, Metrics(), dict) is None


@pytest.mark.parametrize(("text", "seconds"), [("200", 0.2), ("", 60.0), ("soon", 60.0), ("-1", 60.0)])
def test_an_interval_that_is_none_is_the_default(text: str, seconds: float) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRIC_EXPORT_INTERVAL": text}
    found = exporter_from_env(environment, Metrics(), dict)
    assert found is not None
    assert found.interval_seconds == seconds


def test_what_one_read_brings_is_counted_by_how_long_it_waited() -> None:
    metrics, now = Metrics(), int(time.time() * 1000)
    metrics.record_queue_time(1, f"{now + 60_000}-0", f"{now + 60_000}-0")  # a server whose clock is ahead
    metrics.record_queue_time(100, f"{now - 20_100}-0", f"{now - 20_000}-7")
    metrics.record_queue_time(3, f"{now - 4_000_000}-0", f"{now}-0")
    counts = dict(zip([*QUEUE_BUCKETS_SECONDS, "more"], metrics.queue_duration.counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count and bound not in (0.001, 0.005, 0.01, 0.05)} == {
        30.0: 100,
        3600.0: 1,
        "more": 1,
    }
    assert sum(metrics.queue_duration.counts) == 104
    assert metrics.queue_duration.sum == pytest.approx(100 * 20.05 + 6000, abs=1)
