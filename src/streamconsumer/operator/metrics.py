"""Prometheus metrics of every StreamConsumer. The operator exports one series per consumer group, not one per pod."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from streamconsumer.model.status import StreamStats
from streamconsumer.operator.autoscaling.throughput import Throughput
from streamconsumer.operator.cache.transform import as_mapping
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile.consumer_state import ConsumerState

LABELS = ["resource_namespace", "resource_name", "stream", "consumer_group"]
"""The labels of every series. The first label is not named `namespace`, because Prometheus sets the label `namespace`
to the operator's namespace."""

GAUGES = {
    "streamconsumer_ready": "1 if the StreamConsumer is Ready, else 0",
    "streamconsumer_group_lag": "Entries that the group has not read yet; absent if unknown",
    "streamconsumer_group_lag_known": "1 if the lag is known, else 0",
    "streamconsumer_group_pending": "Entries that were delivered to the group and are not acknowledged",
    "streamconsumer_group_oldest_pending_age_seconds": "Age of the oldest pending entry; 0 if no entry is pending",
    "streamconsumer_group_dead_letters": "Dead letters in the dead-letter stream",
    "streamconsumer_desired_replicas": "Desired number of pods",
    "streamconsumer_scaling_active": "1 if the backlog is known, else 0; absent if autoscaling is off",
    "streamconsumer_scaling_limited": (
        "1 if maxReplicas or a policy limits the number of pods, else 0; absent if autoscaling is off"
    ),
    "streamconsumer_group_arrivals_per_second": (
        "Entries added per second, averaged over 5 minutes; absent if autoscaling is off"
    ),
    "streamconsumer_replica_entries_per_second": (
        "Measured number of entries that one pod handles per second; absent if autoscaling is off"
    ),
}

MAX_LABEL_LENGTH = 512
"""Maximum number of characters of a label value."""

_CONDITIONS = {
    "Ready": "streamconsumer_ready",
    "ScalingActive": "streamconsumer_scaling_active",
    "ScalingLimited": "streamconsumer_scaling_limited",
}


SERVED = "streamconsumer_operator_namespace_served"


class NamespaceGauges:
    """A Prometheus collector that reports which watched namespaces the operator serves. A thread may call `collect`."""

    def __init__(self, served: Callable[[], Mapping[str, bool]]) -> None:
        """`served` returns whether each watched namespace is served. The key for all namespaces is an empty string."""
        self._served = served

    def collect(self) -> Iterator[Metric]:
        text = "1 if the operator serves the watched namespace, else 0; without watchNamespaces, the label is empty"
        family = GaugeMetricFamily(SERVED, text, labels=LABELS[:1])
        for namespace, is_served in self._served().items():
            family.add_metric([namespace], float(is_served))
        yield family


class StreamGauges:
    """A Prometheus collector that reads the cached StreamConsumers and the result of each stream's last poll.

    A thread may call `collect`, because the event loop replaces manifests, observations and throughputs but never
    changes the old objects."""

    def __init__(
        self,
        consumers: Mapping[Key, Manifest],
        states: Mapping[Key, ConsumerState],
    ) -> None:
        self._consumers, self._states = consumers, states

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=LABELS) for name, text in GAUGES.items()}
        for key, manifest in dict(self._consumers).items():  # a copy, because the event loop changes the original
            labels = _labels(key, manifest)
            for name, value in (*_status_values(manifest), *_state_values(self._states.get(key))):
                if (number := _to_finite(value)) is not None:
                    families[name].add_metric(labels, number)
        yield from families.values()


def _labels(key: Key, manifest: Manifest) -> list[str]:
    """Return the label values. The metrics of an invalid StreamConsumer are labelled with the raw values in its
    spec."""
    spec = as_mapping(manifest.get("spec"))
    values = (*key, spec.get("stream", ""), spec.get("consumerGroup", ""))
    # Prometheus rejects the whole response if one label is not UTF-8.
    return [str(value)[:MAX_LABEL_LENGTH].encode(errors="backslashreplace").decode() for value in values]


def _to_finite(value: Any) -> float | None:
    """Return the value as a number, or None if it is not a finite number. A value in the status can have any type,
    because a user with permission to write the status can store any value."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def _status_values(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    """Yield the metric values from the status. A StreamConsumer that has no status is reported as not ready."""
    status = as_mapping(manifest.get("status"))
    listed = status.get("conditions")
    conditions = {
        str(each.get("type")): each.get("status") == "True"
        for each in map(as_mapping, listed if isinstance(listed, list) else [])
    }
    for condition, name in _CONDITIONS.items():
        if condition in conditions or condition == "Ready":
            yield name, float(conditions.get(condition, False))
    if "desiredReplicas" in status:
        yield "streamconsumer_desired_replicas", status["desiredReplicas"]


def _state_values(state: ConsumerState | None) -> Iterator[tuple[str, float]]:
    """Yield the metric values from the last poll, and the measured rates."""
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
