"""The state of one StreamConsumer: which events keep it, and which events drop it."""

from dataclasses import replace
from typing import Any

from streamconsumer.model.status import StreamStats
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile.consumer_state import ConsumerState
from streamconsumer.operator.redis_monitor.monitored_stream import Observation
from tests.model.examples import manifest, stored
from tests.operator.reconcile.test_reconciler import KEY, Setting

AUTOSCALING = {"target": {"backlogPerReplica": 10}, "maxReplicas": 7}
OBSERVATION = Observation(
    (), StreamStats(length=100, lag=100, lag_known=True, pending=0, last_delivered_id="0-0"), {}, 0
)


def scaled(**spec: Any) -> Manifest:
    return manifest(autoscaling=AUTOSCALING, **spec)


async def observed(setting: Setting) -> ConsumerState:
    """Reconcile, poll once, and reconcile again."""
    await setting.reconcile()
    state = setting.reconciler.states[KEY]
    assert state.stream
    state.stream.on_observation(OBSERVATION)
    state.stream.published = state.stream.latest = OBSERVATION
    await setting.reconcile()
    return state


async def edit(setting: Setting, **spec: Any) -> None:
    setting.put({**setting.manifest, "spec": {**setting.manifest["spec"], **spec}})
    await setting.reconcile()


async def test_state_is_the_same_object_in_every_reconcile() -> None:
    setting = Setting(scaled())
    state = await observed(setting)
    await edit(setting, autoscaling={**AUTOSCALING, "maxReplicas": 5})
    assert setting.reconciler.states == {KEY: state}
    assert state.autoscaler
    assert state.autoscaler.replicas == 5
    assert setting.streams.unwatched == []


async def test_status_shows_the_decision_of_the_autoscaler() -> None:
    setting = Setting(scaled())
    await observed(setting)
    status = setting.store.consumers[KEY]["status"]
    assert (status["autoscaling"]["desiredReplicas"], status["stream"]["lag"]) == (7, 100)
    assert {"ScalingActive", "ScalingLimited"} <= {each["type"] for each in status["conditions"]}


async def test_a_deleted_resource_leaves_no_state() -> None:
    setting = Setting(scaled())
    await observed(setting)
    setting.store.remove(setting.manifest)
    await setting.reconcile()
    assert setting.reconciler.states == {}
    assert setting.streams.unwatched == [KEY]


async def test_a_recreated_resource_starts_without_the_state_of_the_previous_one() -> None:
    setting = Setting(scaled())
    before = await observed(setting)
    for child in setting.store.children(KEY):
        setting.store.remove(child)
    setting.cluster.objects.clear()
    setting.put(stored(scaled(), uid="another"))
    await setting.reconcile()
    after = setting.reconciler.states[KEY]
    assert after is not before
    assert after.uid == "another"
    assert after.published is None
    assert after.autoscaler
    assert (after.autoscaler.published, after.autoscaler.replicas) == (None, 0)
    assert setting.streams.unwatched == [KEY]


async def test_a_suspended_resource_drops_its_stream_and_its_scaling_history() -> None:
    setting = Setting(scaled())
    state = await observed(setting)
    await edit(setting, suspend=True)
    assert setting.reconciler.states == {KEY: state}
    assert (state.stream, state.autoscaler, state.published) == (None, None, None)
    assert setting.streams.unwatched == [KEY]


async def test_an_invalid_resource_drops_its_stream_and_its_scaling_history() -> None:
    setting = Setting(scaled())
    state = await observed(setting)
    await edit(setting, batchCount=0)
    assert (state.stream, state.autoscaler) == (None, None)


async def test_a_resource_without_autoscaling_has_no_autoscaler() -> None:
    setting = Setting(scaled())
    state = await observed(setting)
    setting.put({**setting.manifest, "spec": manifest()["spec"]})
    await setting.reconcile()
    assert state.autoscaler is None
    assert state.stream is not None


async def test_observations_have_no_effect_without_an_autoscaler() -> None:
    setting = Setting()
    await setting.reconcile()
    effect = setting.reconciler.states[KEY].on_observation(replace(OBSERVATION, entries_read=None))
    assert not effect.scaled_to_zero
    assert not effect.decision_changed
