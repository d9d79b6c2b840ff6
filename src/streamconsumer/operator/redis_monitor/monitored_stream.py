"""Everything the operator knows about the stream of one StreamConsumer: the poll target and the results of the polls.

The reconciler owns the object, and the poller of the Redis server fills it. `RedisMonitor.unwatch` removes it from the
poller and from the connection that waits for the first entry of a scaled-down stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamStats
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests.metadata import child_name
from streamconsumer.operator.redis_monitor.probe import GroupRef
from streamconsumer.operator.redis_monitor.stream_health import StreamHealth

EndpointId = tuple[str, str, int]
"""The namespace (empty if the settings mean the same server in every namespace), the Redis settings as JSON, and the
hash slot in a Cluster."""


@dataclass(frozen=True)
class PollTarget:
    """The parts of a StreamConsumer that the poller needs, as of the last reconcile."""

    generation_id: tuple[str, int]
    """The uid and the generation."""
    group_ref: GroupRef
    start_from: str
    deployment: str
    pods: frozenset[str]
    pod_has_run: bool
    """True if a pod has started and may know a group that existed. A pod that waits for a node or its image does not
    count."""
    last_delivered_id: str | None
    """The last-delivered id in the status: a group existed at this position. None if the status has no position."""

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
    """The result of one poll: three conditions and the stream statistics."""

    conditions: tuple[ConditionState, ...]
    stats: StreamStats | None
    pending_by_consumer: Mapping[str, int]
    """The number of pending entries of each consumer."""
    entries_read: int | None
    """The number of entries that the group has read in total. None if the server does not count them."""

    @property
    def condition_key(self) -> list[tuple[str, str, str]]:
        """The part of the conditions that is worth an immediate status write. Messages may differ between polls."""
        return [(each.type, each.status, each.reason) for each in self.conditions]


@dataclass(frozen=True)
class ObservationEffect:
    """The autoscaler's reaction to an observation."""

    scaled_to_zero: bool = False
    """True if no pod is left that would notice the next entry."""
    decision_changed: bool = False
    """True if the decision differs from the previous one. The status then shows the decision with its statistics."""


@dataclass(eq=False)
class MonitoredStream:
    """The stream of one StreamConsumer, from the first poll to the last."""

    key: Key
    endpoint_id: EndpointId
    """The poller that polls the stream."""
    on_observation: Callable[[Observation], ObservationEffect]
    """Called with the result of every poll."""
    target: PollTarget
    latest: Observation | None = None
    """The result of the last poll. None before the first poll."""
    published: Observation | None = None
    """The observation for the status. None before the first poll."""
    published_seconds: float = 0.0
    health: StreamHealth = field(default_factory=StreamHealth)
    cleaned_up_seconds: float = float("-inf")
    """The time of the last deletion of stale consumers."""
    last_delivered_id: str | None = None
    """The last position of the group in a poll. None if no poll has found the group."""
