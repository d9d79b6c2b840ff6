"""What Prometheus reads of each StreamConsumer at the operator: of a group once, however many pods it has."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily, Metric

from streamconsumer.model.status import StreamStats
from streamconsumer.operator.autoscaling.throughput import Throughput
from streamconsumer.operator.cache.transform import as_mapping
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile.consumer_state import ConsumerState

LABELS = ["resource_namespace", "resource_name", "stream", "consumer_group"]
"""Not `namespace`: a scrape says by that where the operator is."""

GAUGES = {
    "streamconsumer_ready": "Whether the StreamConsumer is Ready: 1 or 0",
    "streamconsumer_group_lag": "How many entries the group has not been given; left out where that is not known",
    "streamconsumer_group_lag_known": "Whether the lag is known: 1 or 0",
    "streamconsumer_group_pending": "How many entries were given and not acknowledged",
    "streamconsumer_group_oldest_pending_age_seconds": "How long ago the oldest pending entry was added; 0 for none",
    "streamconsumer_group_dead_letters": "How many dead letters are kept",
    "streamconsumer_desired_replicas": "How many pods are wanted",
    "streamconsumer_scaling_active": "With autoscaling: whether the backlog is known: 1 or 0",
    "streamconsumer_scaling_limited": "With autoscaling: whether maxReplicas or a policy allows no more: 1 or 0",
    "streamconsumer_group_arrivals_per_second": "With autoscaling: how fast entries come, over 5 minutes",
    "streamconsumer_replica_entries_per_second": "With autoscaling: how fast one pod was seen to handle them",
}

_CONDITIONS = {
    "Ready": "streamconsumer_ready",
    "ScalingActive": "streamconsumer_scaling_active",
    "ScalingLimited": "streamconsumer_scaling_limited",
}


class StreamGauges:
    """A Prometheus collector over the StreamConsumers that are there and the last look at each."""

    def __init__(
        self,
        consumers: Mapping[Key, Manifest],
        states: Mapping[Key, ConsumerState],
    ) -> None:
        self._consumers, self._states = consumers, states

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=LABELS) for name, text in GAUGES.items()}
        for key, manifest in self._consumers.items():
            labels = _labels(key, manifest)
            for name, value in (*_status_values(manifest), *_state_values(self._states.get(key))):
                families[name].add_metric(labels, value)
        yield from families.values()


def _labels(key: Key, manifest: Manifest) -> list[str]:
    """Whatever stands in the spec: one that is invalid has to be seen too."""
    spec = as_mapping(manifest.get("spec"))
    return [*key, str(spec.get("stream", "")), str(spec.get("consumerGroup", ""))]


def _status_values(manifest: Manifest) -> Iterator[tuple[str, float]]:
    """What the status says; of one that has none, that it is not ready."""
    status = manifest.get("status") or {}
    found = {each["type"]: each["status"] == "True" for each in status.get("conditions") or []}
    for kind, name in _CONDITIONS.items():
        if kind in found or kind == "Ready":
            yield name, float(found.get(kind, False))
    if "desiredReplicas" in status:
        yield "streamconsumer_desired_replicas", status["desiredReplicas"]


def _state_values(state: ConsumerState | None) -> Iterator[tuple[str, float]]:
    """Yield the values of the last poll and the measured rates."""
    if state and state.stream and state.stream.latest:
        yield from _stream_values(state.stream.latest.stats)
    if state and state.autoscaler:
        yield from _rate_values(state.autoscaler.throughput)


def _rate_values(throughput: Throughput) -> Iterator[tuple[str, float]]:
    if throughput.arrival_rate is not None:
        yield "streamconsumer_group_arrivals_per_second", throughput.arrival_rate
    if throughput.per_pod_rate is not None:
        yield "streamconsumer_replica_entries_per_second", throughput.per_pod_rate


def _stream_values(stats: StreamStats | None) -> Iterator[tuple[str, float]]:
    if stats is None or stats.pending is None:
        return
    yield "streamconsumer_group_lag_known", float(stats.lag_known)
    if stats.lag is not None:
        yield "streamconsumer_group_lag", stats.lag
    yield "streamconsumer_group_pending", stats.pending
    yield "streamconsumer_group_oldest_pending_age_seconds", _age_seconds(stats.oldest_pending_time)
    if stats.dead_letters is not None:
        yield "streamconsumer_group_dead_letters", stats.dead_letters


def _age_seconds(timestamp: str | None) -> float:
    if timestamp is None:
        return 0.0
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds())
