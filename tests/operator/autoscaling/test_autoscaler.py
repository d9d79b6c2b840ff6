"""State of the autoscaler between observations and reconciles."""

from typing import Any

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import StreamStats
from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.redis_monitor.monitored_stream import Observation, ObservationEffect

POLICY = {"policies": [{"type": "Pods", "value": 4, "period": "60s"}]}


def rules(**autoscaling: Any) -> Autoscaling:
    return Autoscaling.model_validate({"target": {"backlogPerReplica": 10}, "maxReplicas": 7, **autoscaling})


def observation(lag: int) -> Observation:
    stats = StreamStats(length=lag, lag=lag, lag_known=True, pending=0, last_delivered_id="0-0")
    return Observation((), stats, {}, 0)


def test_second_observation_before_a_reconcile_starts_from_the_first_decision() -> None:
    """Two entries at zero cause two polls, and the reconcile may be delayed in the work queue."""
    autoscaler = Autoscaler.with_rules(rules(scaleUp=POLICY), None, 0)
    autoscaler.clock = lambda: 0.0
    autoscaler.on_observation(observation(100))
    assert autoscaler.replicas == 4
    autoscaler.on_observation(observation(100))
    assert autoscaler.replicas == 4


def test_autoscaler_keeps_its_history_when_the_rules_change() -> None:
    autoscaler = Autoscaler.with_rules(rules(), None, 3)
    autoscaler.on_observation(observation(100))
    assert Autoscaler.with_rules(rules(), autoscaler, 3) is autoscaler
    edited = Autoscaler.with_rules(rules(maxReplicas=5), autoscaler, 7)
    assert (edited.replicas, edited.published, edited.history) == (5, None, autoscaler.history)


def test_autoscaler_starts_with_min_replicas_without_a_deployment() -> None:
    assert Autoscaler.with_rules(rules(minReplicas=2), None, None).replicas == 2


def test_autoscaler_decides_nothing_while_frozen() -> None:
    autoscaler = Autoscaler.with_rules(rules(), None, 1)
    autoscaler.is_frozen = True
    assert autoscaler.on_observation(observation(100)) == ObservationEffect()
    assert (autoscaler.replicas, autoscaler.published) == (1, None)
