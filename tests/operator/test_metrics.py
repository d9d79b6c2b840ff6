"""The metrics of StreamConsumers at the operator."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import StreamStats
from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.autoscaling.throughput import Sample, Throughput
from streamconsumer.operator.metrics import StreamGauges
from streamconsumer.operator.reconcile.consumer_state import ConsumerState
from streamconsumer.operator.redis_monitor.monitored_stream import (
    EndpointId,
    MonitoredStream,
    Observation,
    ObservationEffect,
    PollTarget,
)
from streamconsumer.operator.redis_monitor.probe import GroupRef
from tests.model.examples import manifest

THROUGHPUT = Throughput().with_sample(Sample(0, 0, 900, 0, 1), -1e9).with_sample(Sample(15, 300, 750, 0, 1), -1e9)
LIMITED = [{"type": "ScalingActive", "status": "True"}, {"type": "ScalingLimited", "status": "True"}]


def values(status: dict[str, object], throughput: Throughput) -> dict[str, float]:
    resource = {**manifest("orders"), "status": status}
    state = ConsumerState(("shop", "orders"), "uid")
    state.autoscaler = Autoscaler(
        Autoscaling.model_validate({"target": {"backlogPerReplica": 10}, "maxReplicas": 7}), 1
    )
    state.autoscaler.history = replace(state.autoscaler.history, throughput=throughput)
    gauges = StreamGauges({state.key: resource}, {state.key: state})
    return {
        sample.name.removeprefix("streamconsumer_"): sample.value
        for each in gauges.collect()
        for sample in each.samples
    }


def test_a_scaled_streamconsumer_exports_replicas_and_rates() -> None:
    assert values({"desiredReplicas": 7, "conditions": LIMITED}, THROUGHPUT) == {
        "ready": 0.0,
        "desired_replicas": 7.0,
        "scaling_active": 1.0,
        "scaling_limited": 1.0,
        "group_arrivals_per_second": 10.0,
        "replica_entries_per_second": 20.0,
    }


def test_unknown_values_are_absent() -> None:
    assert values({}, Throughput()) == {"ready": 0.0}


MALFORMED: list[object] = [
    "text",
    [],
    {"conditions": "Ready"},
    {"conditions": [None, "Ready", {"type": ["Ready"]}, {}]},
    {"desiredReplicas": 10**400},
    {"desiredReplicas": "9" * 400},
    {"desiredReplicas": None},
    {"desiredReplicas": float("nan")},
    {"desiredReplicas": {}},
]


@pytest.mark.parametrize("status", MALFORMED)
def test_malformed_status_leaves_the_metrics_of_other_resources(status: object) -> None:
    malformed = {**manifest("odd"), "status": status, "spec": {"stream": "\ud800\n" * 10_000, "consumerGroup": ["x"]}}
    others = {("shop", "orders"): {**manifest("orders"), "status": {"desiredReplicas": 7}}}
    registry = CollectorRegistry()
    registry.register(StreamGauges({("shop", "odd"): malformed, **others}, {}))
    text = generate_latest(registry).decode()
    assert 'streamconsumer_desired_replicas{consumer_group="billing",resource_name="orders"' in text
    assert 'resource_name="odd"' in text


def test_statistics_of_any_size_are_exported() -> None:
    stats = StreamStats(pending=2**63 - 1, lag=10**400, lag_known=True, dead_letters=0)
    state = ConsumerState(("shop", "orders"), "uid")
    target = PollTarget(("uid", 1), GroupRef("s", "g", "d"), "0", frozenset(), None)
    state.stream = MonitoredStream(state.key, EndpointId("", "", 0), lambda _: ObservationEffect(), target)
    state.stream.latest = Observation((), stats, {}, None)
    gauges = StreamGauges({state.key: manifest("orders")}, {state.key: state})
    exported = {sample.name: sample.value for each in gauges.collect() for sample in each.samples}
    assert exported["streamconsumer_group_pending"] == float(2**63 - 1)
    assert "streamconsumer_group_lag" not in exported
