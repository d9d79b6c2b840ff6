"""State of one monitored stream: the poll target and the results of its polls.

The reconciler owns a `MonitoredStream`, and the poller of the Redis endpoint updates its fields. `RedisMonitor.unwatch`
removes the stream from the poller, and from the blocking read that waits for the next entry if there are no pods.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamReason, StreamStats
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.redis_monitor.probe import GroupRef
from streamconsumer.operator.redis_monitor.stream_health import StreamHealth
from streamconsumer.redis_client.replies import is_id


class EndpointId(NamedTuple):
    """Identity of a Redis endpoint. StreamConsumers with the same identity share a poller and its connection.

    The namespace is always part of the identity, because the namespace determines the meaning of Secret names and of
    relative host names. A slow server or a large number of streams therefore delays only the polls of the same
    namespace."""

    namespace: str
    """Namespace of the StreamConsumers."""
    redis: str
    """Redis settings as JSON, with the URL in a normalized form."""
    slot: int
    """Hash slot of the stream in a Redis Cluster, or 0 if the server is not a Redis Cluster."""


@dataclass(frozen=True)
class PollTarget:
    """Data about one StreamConsumer that the poller needs, as of the last reconcile."""

    generation_id: tuple[str, int]
    """Uid and generation of the StreamConsumer."""
    group_ref: GroupRef
    start_from: str
    pods: frozenset[str]
    last_delivered_id: str | None
    """Last-delivered id in the status, or None if the status contains no id or an invalid id. A user may have written
    an invalid id. A valid id proves that the group has existed."""

    @classmethod
    def from_consumer(
        cls, consumer: StreamConsumer, pods: frozenset[str], last_delivered_id: str | None
    ) -> "PollTarget":
        return cls(
            (consumer.uid, consumer.generation),
            GroupRef.from_consumer(consumer),
            consumer.spec.start_from,
            pods,
            last_delivered_id if last_delivered_id and is_id(last_delivered_id) else None,
        )


@dataclass(frozen=True)
class Observation:
    """Result of one poll: three conditions and the stream statistics."""

    conditions: tuple[ConditionState, ...]
    stats: StreamStats | None
    pending_by_consumer: Mapping[str, int]
    """Number of pending entries of each pod that has pending entries."""
    entries_read: int | None
    """Number of entries that were ever delivered to the group, or None if the server does not count deliveries."""

    @property
    def secrets_problem(self) -> str:
        """Message that explains why the Secrets are not readable, or an empty string if no condition reports this
        problem."""
        is_problem = StreamReason.SECRETS_NOT_READABLE
        return next((condition.message for condition in self.conditions if condition.reason is is_problem), "")

    @property
    def condition_key(self) -> list[tuple[str, str, str]]:
        """Types, statuses and reasons of the conditions. If one of these values has changed, the status of the
        StreamConsumer is written immediately. A changed message alone does not cause a write."""
        return [(condition.type, condition.status, condition.reason) for condition in self.conditions]


@dataclass(frozen=True)
class ObservationEffect:
    """Reaction of the autoscaler to an observation."""

    scaled_to_zero: bool = False
    """True if the desired number of pods is zero, so that the operator must wait for the next entry."""
    decision_changed: bool = False
    """True if the decision differs from the previous decision. After a changed decision, the status shows the new
    decision together with the statistics from the same poll."""


@dataclass(eq=False)
class MonitoredStream:
    """Stream of one StreamConsumer, and the results of polling the stream."""

    key: Key
    endpoint_id: EndpointId
    """Identity of the poller that polls the stream."""
    on_observation: Callable[[Observation], ObservationEffect]
    """Function that is called with the result of every poll."""
    target: PollTarget
    latest: Observation | None = None
    """Result of the last poll, or None before the first poll."""
    published: Observation | None = None
    """Observation to publish in the status of the StreamConsumer. None before the first poll."""
    published_seconds: float = 0.0
    health: StreamHealth = field(default_factory=StreamHealth)
    last_delivered_id: str | None = None
    """Last-delivered id in the last poll that found the group, or None if no poll has found the group."""
