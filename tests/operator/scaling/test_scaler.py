"""The decisions as they stand, between looks and reconciles."""

from typing import Any

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import StreamStats
from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.redis_monitor.poller import Observation
from tests.model.examples import consumer

KEY = ("shop", "orders")
SLOWLY = {"policies": [{"type": "Pods", "value": 4, "period": "60s"}]}


def scaled(**autoscaling: Any) -> StreamConsumer:
    return consumer(autoscaling={"target": {"backlogPerReplica": 10}, "maxReplicas": 7, **autoscaling})


def seen(lag: int) -> Observation:
    figures = StreamStats(length=lag, lag=lag, lag_known=True, pending=0, last_delivered_id="0-0")
    return Observation((), figures, {}, 0)


def wanted(scaler: Autoscaler) -> int | None:
    told = scaler.published(KEY)
    return told.desired_replicas if told else None


def test_a_look_before_the_reconcile_of_the_one_before_begins_where_that_ended() -> None:
    """Two entries at zero are two looks, and the queue may be long."""
    woken: list[Key] = []
    scaler = Autoscaler(woken.append, lambda: 0.0)
    scaler.with_replicas(scaled(scaleUp=SLOWLY), 0, is_frozen=False)
    scaler.on_observation(KEY, seen(100))
    assert wanted(scaler) == 4
    scaler.on_observation(KEY, seen(100))
    assert wanted(scaler) == 4
