"""The decisions as they stand: one for each StreamConsumer that scales itself, made anew at each look at its stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import Fact, ScalingReason, ScalingStatus, StreamFigures
from streamconsumer.operator.autoscaling.algorithm import Backlog, Decision, Memory, decide
from streamconsumer.operator.autoscaling.throughput import Pace
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.redis_monitor.monitor import Heard
from streamconsumer.operator.redis_monitor.poller import Observation

LIMITS = (ScalingReason.LIMITED_BY_MAX, ScalingReason.LIMITED_BY_POLICY)


@dataclass
class _Scaled:
    """One StreamConsumer that scales itself."""

    rules: Autoscaling
    current: int
    frozen: bool
    memory: Memory = field(default_factory=Memory)
    decision: Decision | None = None
    told: ScalingStatus | None = None
    holding: Mapping[str, int] = field(default_factory=dict)


class Scaler:
    """Fed by looks, asked by the reconciler. `wake` is called when a decision asks for another number of pods, or gives
    another reason for it."""

    def __init__(self, wake: Callable[[Key], None], clock: Callable[[], float]) -> None:
        self._wake, self._clock = wake, clock
        self._scaled: dict[Key, _Scaled] = {}

    def attend(self, consumer: StreamConsumer, current: int | None, *, frozen: bool) -> StreamConsumer:
        """The StreamConsumer with the number of pods that was decided; as it is where it does not scale itself.

        `current` is what its Deployment states, None before there is one: then there is the least that may be, until
        the first look. Frozen: its pods cannot start, and more of them would not help."""
        key, rules = (consumer.namespace, consumer.name), consumer.spec.autoscaling
        if rules is None:
            self.forget(key)
            return consumer
        known = self._scaled.get(key)
        if known is None or known.rules != rules:
            memory = known.memory if known else Memory()
            known = self._scaled[key] = _Scaled(rules, rules.min_replicas, frozen, memory)
            known.current = (
                rules.min_replicas if current is None else min(max(current, rules.min_replicas), rules.max_replicas)
            )
        known.frozen = frozen
        return _with_replicas(consumer, known.current)

    def freeze(self, key: Key, *, frozen: bool) -> None:
        """From the moment that it is known: the next look may come before the next reconcile."""
        if known := self._scaled.get(key):
            known.frozen = frozen

    def looked(self, key: Key, found: Observation) -> Heard:
        """Decide anew by what a look found."""
        known = self._scaled.get(key)
        if known is None or known.frozen:
            return Heard()
        seen = backlog(found.figures, found.read, known.current)
        decision, known.memory = decide(known.rules, seen, known.current, known.memory, self._clock())
        before, known.decision, known.holding = known.told, decision, found.holding
        known.current = decision.replicas  # the next look may come before the reconcile
        news = before is None or (before.desired_replicas, before.reason) != (decision.replicas, decision.why)
        if news:
            known.told = ScalingStatus(
                desired_replicas=decision.replicas,
                reason=decision.why,
                message=decision.sentence,
                decision_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
            self._wake(key)
        return Heard(asleep=decision.replicas == 0, decided=news)

    def told(self, key: Key) -> ScalingStatus | None:
        """What is to stand in the status; None before the first look."""
        known = self._scaled.get(key)
        return known.told if known else None

    def holding(self, key: Key) -> Mapping[str, int]:
        """How many entries each consumer held when it was decided."""
        known = self._scaled.get(key)
        return known.holding if known else {}

    def pace(self, key: Key) -> Pace:
        """How fast entries come and one pod handles them, as far as that was seen."""
        known = self._scaled.get(key)
        return known.memory.pace if known else Pace()

    def facts(self, key: Key) -> tuple[Fact, ...]:
        """The two conditions, in HorizontalPodAutoscaler's words."""
        told = self.told(key)
        if told is None:
            return ()
        reason = ScalingReason(told.reason)
        blind = reason in (ScalingReason.BACKLOG_UNKNOWN, ScalingReason.FALLBACK)
        limited = reason in LIMITS
        return (
            Fact(type="ScalingActive", status="False" if blind else "True", reason=reason, message=told.message),
            Fact(
                type="ScalingLimited",
                status="True" if limited else "False",
                reason=reason if limited else ScalingReason.NOT_LIMITED,
                message=told.message if limited else "",
            ),
        )

    def forget(self, key: Key) -> None:
        self._scaled.pop(key, None)


def backlog(figures: StreamFigures | None, read: int | None, current: int) -> Backlog | None:
    """What a look found, as far as it is known. None: nothing was seen.

    Without a group, all that the stream holds may be for it, and pods may be about to put back what they hold: it is
    known to be nothing only where there is nothing and nobody."""
    if figures is None:
        return None
    if figures.pending is None:
        return Backlog(figures.length, 0, exact=figures.length == 0 and current == 0)
    return Backlog(figures.lag, figures.pending, exact=figures.lag_known, read=read, position=figures.last_delivered_id)


def _with_replicas(consumer: StreamConsumer, replicas: int) -> StreamConsumer:
    spec = consumer.spec.model_copy(update={"replicas": replicas})
    return consumer.model_copy(update={"spec": spec})
