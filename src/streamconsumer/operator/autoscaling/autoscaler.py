"""Autoscaler of one StreamConsumer: makes a new decision after every observation of its stream."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, ScalingReason, ScalingStatus, StreamStats
from streamconsumer.operator.autoscaling.algorithm import Backlog, ScalingHistory, decide
from streamconsumer.operator.autoscaling.throughput import Throughput
from streamconsumer.operator.redis_monitor.monitored_stream import Observation, ObservationEffect

BLIND_REASONS = (ScalingReason.BACKLOG_UNKNOWN, ScalingReason.FALLBACK, ScalingReason.SECRETS_NOT_READABLE)
LIMIT_REASONS = (ScalingReason.LIMITED_BY_MAX, ScalingReason.LIMITED_BY_POLICY)


@dataclass
class Autoscaler:
    """Decides the number of pods of one StreamConsumer after every observation of its stream."""

    rules: Autoscaling
    replicas: int
    """Number of pods in the last decision."""
    is_frozen: bool = False
    """True if the pods cannot start. While the pods cannot start, the autoscaler ignores observations, because more
    pods would not help."""
    history: ScalingHistory = field(default_factory=ScalingHistory)
    published: ScalingStatus | None = None
    """Decision that the status shows: the last decision that changed the number of pods or the reason. The value is
    None before the first observation."""
    pending_by_pod: Mapping[str, int] = field(default_factory=dict)
    """Number of pending entries of each pod's consumer at the last decision."""
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def with_rules(cls, rules: Autoscaling, previous: "Autoscaler | None", current: int | None) -> "Autoscaler":
        """Return `previous` if the rules have not changed, otherwise a new autoscaler with the history of `previous`.

        `current` is the number of pods in the Deployment. If there is no Deployment yet, `current` is None and the new
        autoscaler starts with minReplicas."""
        if previous is not None and previous.rules == rules:
            return previous
        replicas = rules.min_replicas if current is None else current
        history = previous.history if previous else ScalingHistory()
        return cls(rules, min(max(replicas, rules.min_replicas), rules.max_replicas), history=history)

    def with_replicas(self, consumer: StreamConsumer) -> StreamConsumer:
        """Return the StreamConsumer with the decided number of pods."""
        spec = consumer.spec.model_copy(update={"replicas": self.replicas})
        return consumer.model_copy(update={"spec": spec})

    def on_observation(self, observation: Observation) -> ObservationEffect:
        """Make a new decision after a poll. Returns how the decision affects polling and the status."""
        if self.is_frozen:
            return ObservationEffect()
        backlog = build_backlog(observation.stats, observation.entries_read, self.replicas)
        decision, self.history = decide(
            self.rules, backlog, self.replicas, self.history, self.clock(), secrets_problem=observation.secrets_problem
        )
        previous, self.pending_by_pod = self.published, observation.pending_by_consumer
        self.replicas = decision.replicas  # the next observation may come before the reconcile
        has_changed = previous is None or (previous.desired_replicas, previous.reason) != (
            decision.replicas,
            decision.reason,
        )
        if has_changed:
            self.published = ScalingStatus(
                desired_replicas=decision.replicas,
                reason=decision.reason,
                message=decision.message,
                decision_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        return ObservationEffect(scaled_to_zero=decision.replicas == 0, decision_changed=has_changed)

    @property
    def throughput(self) -> Throughput:
        """Measured arrival rate, and measured throughput of one pod."""
        return self.history.throughput

    def conditions(self) -> tuple[ConditionState, ...]:
        """Return the conditions ScalingActive and ScalingLimited, named as in HorizontalPodAutoscaler."""
        published = self.published
        if published is None:
            return ()
        reason = ScalingReason(published.reason)
        is_limited = reason in LIMIT_REASONS
        return (
            ConditionState(
                type="ScalingActive",
                status="False" if reason in BLIND_REASONS else "True",
                reason=reason,
                message=published.message,
            ),
            ConditionState(
                type="ScalingLimited",
                status="True" if is_limited else "False",
                reason=reason if is_limited else ScalingReason.NOT_LIMITED,
                message=published.message if is_limited else "",
            ),
        )


def build_backlog(stats: StreamStats | None, entries_read: int | None, current: int) -> Backlog | None:
    """Build the backlog from the stream statistics. Returns None if `stats` is None.

    If the group is missing, running pods may be about to restore pending entries. Without a group, the backlog is
    therefore known only if no entry is unread and there are no pods."""
    if stats is None:
        return None
    if stats.pending is None:
        return Backlog(stats.lag, 0, is_exact=stats.lag == 0 and current == 0)
    return Backlog(
        stats.lag,
        stats.pending,
        is_exact=stats.lag_known,
        entries_read=entries_read,
        last_delivered_id=stats.last_delivered_id,
    )
