"""The state of one StreamConsumer that the operator keeps between two reconciles.

The reconciler looks up the state of a StreamConsumer once per reconcile, and drops the state when the StreamConsumer is
deleted. If the StreamConsumer is created again with the same name, it has a new uid and starts with a new state.

Two kinds of data are stored elsewhere. The object cache contains the objects from the API server, including children of
a deleted StreamConsumer until Kubernetes has deleted these children. The work queue contains the keys that wait for a
reconcile.
"""

from dataclasses import dataclass, field

from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.reconcile.applied_outcomes import AppliedOutcomes
from streamconsumer.operator.reconcile.repair_limit import RepairLimit
from streamconsumer.operator.reconcile.status_debounce import PendingChanges
from streamconsumer.operator.redis_monitor.monitored_stream import MonitoredStream, Observation, ObservationEffect


@dataclass(eq=False)
class ConsumerState:
    """The state of one StreamConsumer, identified by its uid."""

    key: Key
    uid: str
    pending_changes: PendingChanges = field(default_factory=PendingChanges)
    stream: MonitoredStream | None = None
    """Stream that the operator polls, or None while the StreamConsumer is suspended or invalid."""
    autoscaler: Autoscaler | None = None
    """Autoscaler of the StreamConsumer, or None if the number of pods is fixed or the operator does not poll the
    stream."""
    repairs: RepairLimit = field(init=False)
    failures: int = 0
    """Number of reconciles in a row in which a request to the API server failed."""
    outcomes: AppliedOutcomes = field(default_factory=AppliedOutcomes)

    def __post_init__(self) -> None:
        self.repairs = RepairLimit(self.key)

    @property
    def published(self) -> Observation | None:
        """The poll result that the status shows, or None before the first poll."""
        return self.stream.published if self.stream else None

    def on_observation(self, observation: Observation) -> ObservationEffect:
        """Pass the result of a poll to the autoscaler."""
        return self.autoscaler.on_observation(observation) if self.autoscaler else ObservationEffect()
