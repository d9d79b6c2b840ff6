"""State of one monitored stream: the poll target and the results of its polls.

The reconciler owns the object, and the poller of the Redis server fills it. `RedisMonitor.unwatch` removes it from the
poller and from the connection that waits for the first entry of a scaled-down stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamStats
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests.metadata import child_name
from streamconsumer.operator.redis_monitor.probe import GroupRef
from streamconsumer.operator.redis_monitor.stream_health import StreamHealth


class EndpointId(NamedTuple):
    """Identity of a Redis endpoint. StreamConsumers with the same identity share a poller and its connection."""

    namespace: str
    """Empty if the settings mean the same server in every namespace."""
    redis: str
    """Redis settings as JSON."""
    slot: int
    """Hash slot in a Redis Cluster; 0 otherwise."""


@dataclass(frozen=True)
class PollTarget:
    """Parts of a StreamConsumer that the poller needs, as of the last reconcile."""

    generation_id: tuple[str, int]
    """Uid and generation of the resource."""
    group_ref: GroupRef
    start_from: str
    deployment: str
    pods: frozenset[str]
    pod_has_run: bool
    """True if a pod has started and may know a group that existed. A pod that waits for a node or its image does not
    count."""
    last_delivered_id: str | None
    """Last-delivered id in the status, which proves that a group existed. None if the status has none."""

    @classmethod
    def from_consumer(
        cls, consumer: StreamConsumer, pods: frozenset[str], last_delivered_id: str | None, *, pod_has_run: bool
    ) -> "PollTarget":
        generation_id, group_ref = (consumer.uid, consumer.generation), GroupRef.from_consumer(consumer)
        return cls(
            generation_id,
            group_ref,
            consumer.spec.start_from,
            child_name(consumer),
            pods,
            pod_has_run,
            last_delivered_id,
        )


@dataclass(frozen=True)
class Observation:
    """Result of one poll: three conditions and the stream statistics."""

    conditions: tuple[ConditionState, ...]
    stats: StreamStats | None
    pending_by_consumer: Mapping[str, int]
    """Number of pending entries of each consumer."""
    entries_read: int | None
    """Entries ever delivered to the group. None if the server does not count them."""

    @property
    def condition_key(self) -> list[tuple[str, str, str]]:
        """Part of the conditions whose change justifies an immediate status write. Messages are left out."""
        return [(condition.type, condition.status, condition.reason) for condition in self.conditions]


@dataclass(frozen=True)
class ObservationEffect:
    """Reaction of the autoscaler to an observation."""

    scaled_to_zero: bool = False
    """True if no pod is left that would notice the next entry."""
    decision_changed: bool = False
    """True if the decision differs from the previous one. The status then shows the decision with its statistics."""


@dataclass(eq=False)
class MonitoredStream:
    """Stream of one StreamConsumer, from its first poll to its last."""

    key: Key
    endpoint_id: EndpointId
    """Identity of the poller that polls the stream."""
    on_observation: Callable[[Observation], ObservationEffect]
    """Called with the result of every poll."""
    target: PollTarget
    latest: Observation | None = None
    """Result of the last poll. None before the first poll."""
    published: Observation | None = None
    """Observation for the status. None before the first poll."""
    published_seconds: float = 0.0
    health: StreamHealth = field(default_factory=StreamHealth)
    cleaned_up_seconds: float = float("-inf")
    """Time of the last deletion of stale consumers."""
    last_delivered_id: str | None = None
    """Position of the group in the last poll that found it. None if no poll has found the group."""
