"""State of the autoscaler between observations and reconciles."""

from typing import Any

import pytest

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import ConditionState, StreamReason, StreamStats
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


PROBLEM = "The operator is not allowed to get Secrets in namespace shop. To grant the permission, run: kubectl create …"


def unreadable() -> Observation:
    reason = StreamReason.SECRETS_NOT_READABLE
    condition = ConditionState(type="RedisReachable", status="Unknown", reason=reason, message=PROBLEM)
    return Observation((condition,), None, {}, None)


@pytest.mark.parametrize(("current", "min_replicas", "held"), [(5, 0, 5), (0, 0, 1), (None, 0, 1), (None, 2, 2)])
def test_unreadable_secrets_hold_the_number_of_pods_and_never_at_zero(
    current: int | None, min_replicas: int, held: int
) -> None:
    autoscaler = Autoscaler.with_rules(rules(minReplicas=min_replicas), None, current)
    for _ in range(3):
        autoscaler.on_observation(unreadable())
        assert autoscaler.replicas == held
    active, limited = autoscaler.conditions()
    assert (active.type, active.status, active.reason) == ("ScalingActive", "False", "SecretsNotReadable")
    assert active.message.endswith(PROBLEM)
    assert limited.status == "False"


def test_a_pod_starts_when_the_secrets_become_unreadable_at_zero_pods() -> None:
    """Otherwise no component would notice new entries."""
    autoscaler = Autoscaler.with_rules(rules(cooldown="0s"), None, 0)
    autoscaler.on_observation(observation(0))
    assert autoscaler.replicas == 0
    autoscaler.on_observation(unreadable())
    assert autoscaler.replicas == 1


def test_fallback_applies_while_secrets_are_not_readable() -> None:
    autoscaler = Autoscaler.with_rules(rules(fallback={"after": "1m", "replicas": 3}), None, 1)
    now = 0.0
    autoscaler.clock = lambda: now
    autoscaler.on_observation(unreadable())
    assert autoscaler.replicas == 1
    now = 60.0
    autoscaler.on_observation(unreadable())
    assert autoscaler.replicas == 3
    assert autoscaler.conditions()[0].reason == "SecretsNotReadable"


def test_scaling_follows_the_backlog_again_when_the_secrets_are_readable() -> None:
    autoscaler = Autoscaler.with_rules(rules(), None, 1)
    autoscaler.on_observation(unreadable())
    autoscaler.on_observation(observation(50))
    assert autoscaler.replicas == 5
    assert autoscaler.conditions()[0].status == "True"
