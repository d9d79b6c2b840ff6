"""The metrics of StreamConsumers at the operator."""

from dataclasses import replace

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.autoscaling.throughput import Sample, Throughput
from streamconsumer.operator.metrics import StreamGauges
from streamconsumer.operator.reconcile.consumer_state import ConsumerState
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
