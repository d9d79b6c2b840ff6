"""Everything that the operator remembers about one StreamConsumer between two reconciles.

The reconciler looks the object up once per reconcile and drops it as a whole with the resource. A resource that is
deleted and created again under the same name has a new uid and starts with a new object.

Two things are stored elsewhere. The object cache mirrors the API server: the children of a deleted StreamConsumer stay
in it until Kubernetes has deleted them. The work queue holds the keys that wait for a reconcile.
"""

from dataclasses import dataclass, field

from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.reconcile.status_debounce import PendingChanges
from streamconsumer.operator.redis_monitor.monitored_stream import MonitoredStream, Observation, ObservationEffect


@dataclass(eq=False)
class ConsumerState:
    """The state of one StreamConsumer, identified by its uid."""

    key: Key
    uid: str
    pending_changes: PendingChanges = field(default_factory=PendingChanges)
    stream: MonitoredStream | None = None
    """None while the operator does not poll the stream: the StreamConsumer is suspended or invalid."""
    autoscaler: Autoscaler | None = None
    """None if the number of pods is fixed, or if the operator does not poll the stream."""

    @property
    def published(self) -> Observation | None:
        """The observation of the stream for the status. None before the first poll."""
        return self.stream.published if self.stream else None

    def on_observation(self, observation: Observation) -> ObservationEffect:
        """Pass the result of a poll to the autoscaler."""
        return self.autoscaler.on_observation(observation) if self.autoscaler else ObservationEffect()
