"""The decisions as they stand: one for each StreamConsumer that scales itself, made anew at each look at its stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, ScalingReason, ScalingStatus, StreamStats
from streamconsumer.operator.autoscaling.algorithm import Backlog, Decision, ScalingHistory, decide
from streamconsumer.operator.autoscaling.throughput import Throughput
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.redis_monitor.monitor import ObservationEffect
from streamconsumer.operator.redis_monitor.poller import Observation

LIMIT_REASONS = (ScalingReason.LIMITED_BY_MAX, ScalingReason.LIMITED_BY_POLICY)


@dataclass
class _ScalingState:
    """One StreamConsumer that scales itself."""

    rules: Autoscaling
    current: int
    is_frozen: bool
    history: ScalingHistory = field(default_factory=ScalingHistory)
    decision: Decision | None = None
    published: ScalingStatus | None = None
    pending_by_pod: Mapping[str, int] = field(default_factory=dict)


class Autoscaler:
    """Fed by looks, asked by the reconciler. `wake` is called when a decision asks for another number of pods, or gives
    another reason for it."""

    def __init__(self, enqueue: Callable[[Key], None], clock: Callable[[], float]) -> None:
        self._enqueue, self._clock = enqueue, clock
        self._states: dict[Key, _ScalingState] = {}

    def with_replicas(self, consumer: StreamConsumer, current: int | None, *, is_frozen: bool) -> StreamConsumer:
        """The StreamConsumer with the number of pods that was decided; as it is where it does not scale itself.

        `current` is what its Deployment states, None before there is one: then there is the least that may be, until
        the first look. Frozen: its pods cannot start, and more of them would not help."""
        key, rules = (consumer.namespace, consumer.name), consumer.spec.autoscaling
        if rules is None:
            self.forget(key)
            return consumer
        known = self._states.get(key)
        if known is None or known.rules != rules:
            memory = known.history if known else ScalingHistory()
            known = self._states[key] = _ScalingState(rules, rules.min_replicas, is_frozen, memory)
            known.current = (
                rules.min_replicas if current is None else min(max(current, rules.min_replicas), rules.max_replicas)
            )
        known.is_frozen = is_frozen
        return _with_replicas(consumer, known.current)

    def set_frozen(self, key: Key, *, is_frozen: bool) -> None:
        """From the moment that it is known: the next look may come before the next reconcile."""
        if known := self._states.get(key):
            known.is_frozen = is_frozen

    def on_observation(self, key: Key, observation: Observation) -> ObservationEffect:
        """Decide anew by what a look found."""
        known = self._states.get(key)
        if known is None or known.is_frozen:
            return ObservationEffect()
        seen = build_backlog(observation.stats, observation.entries_read, known.current)
        decision, known.history = decide(known.rules, seen, known.current, known.history, self._clock())
        before, known.decision, known.pending_by_pod = known.published, decision, observation.pending_by_consumer
        known.current = decision.replicas  # the next look may come before the reconcile
        news = before is None or (before.desired_replicas, before.reason) != (decision.replicas, decision.reason)
        if news:
            known.published = ScalingStatus(
                desired_replicas=decision.replicas,
                reason=decision.reason,
                message=decision.message,
                decision_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
            self._enqueue(key)
        return ObservationEffect(scaled_to_zero=decision.replicas == 0, decision_changed=news)

    def published(self, key: Key) -> ScalingStatus | None:
        """What is to stand in the status; None before the first look."""
        known = self._states.get(key)
        return known.published if known else None

    def pending_by_pod(self, key: Key) -> Mapping[str, int]:
        """How many entries each consumer held when it was decided."""
        known = self._states.get(key)
        return known.pending_by_pod if known else {}

    def throughput(self, key: Key) -> Throughput:
        """How fast entries come and one pod handles them, as far as that was seen."""
        known = self._states.get(key)
        return known.history.throughput if known else Throughput()

    def conditions(self, key: Key) -> tuple[ConditionState, ...]:
        """The two conditions, in HorizontalPodAutoscaler's words."""
        told = self.published(key)
        if told is None:
            return ()
        reason = ScalingReason(told.reason)
        blind = reason in (ScalingReason.BACKLOG_UNKNOWN, ScalingReason.FALLBACK)
        limited = reason in LIMIT_REASONS
        return (
            ConditionState(
                type="ScalingActive", status="False" if blind else "True", reason=reason, message=told.message
            ),
            ConditionState(
                type="ScalingLimited",
                status="True" if limited else "False",
                reason=reason if limited else ScalingReason.NOT_LIMITED,
                message=told.message if limited else "",
            ),
        )

    def forget(self, key: Key) -> None:
        self._states.pop(key, None)


def build_backlog(stats: StreamStats | None, entries_read: int | None, current: int) -> Backlog | None:
    """What a look found, as far as it is known. None: nothing was seen.

    Without a group, all that the stream holds may be for it, and pods may be about to put back what they hold: it is
    known to be nothing only where there is nothing and nobody."""
    if stats is None:
        return None
    if stats.pending is None:
        return Backlog(stats.length, 0, is_exact=stats.length == 0 and current == 0)
    return Backlog(
        stats.lag,
        stats.pending,
        is_exact=stats.lag_known,
        entries_read=entries_read,
        last_delivered_id=stats.last_delivered_id,
    )


def _with_replicas(consumer: StreamConsumer, replicas: int) -> StreamConsumer:
    spec = consumer.spec.model_copy(update={"replicas": replicas})
    return consumer.model_copy(update={"spec": spec})
