"""The state of one StreamConsumer: which events keep it, and which events drop it."""

from dataclasses import replace
from typing import Any

from streamconsumer.model.status import StreamStats
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile.consumer_state import ConsumerState
from streamconsumer.operator.redis_monitor.monitored_stream import Observation
from tests.model.examples import manifest, stored
from tests.operator.reconcile.test_reconciler import KEY, Fixture

AUTOSCALING = {"target": {"backlogPerReplica": 10}, "maxReplicas": 7}
OBSERVATION = Observation(
    (), StreamStats(length=100, lag=100, lag_known=True, pending=0, last_delivered_id="0-0"), {}, 0
)


def scaled(**spec: Any) -> Manifest:
    return manifest(autoscaling=AUTOSCALING, **spec)


async def observed(fixture: Fixture) -> ConsumerState:
    """Reconcile, poll once, and reconcile again."""
    await fixture.reconcile()
    state = fixture.reconciler.states[KEY]
    assert state.stream
    state.stream.on_observation(OBSERVATION)
    state.stream.published = state.stream.latest = OBSERVATION
    await fixture.reconcile()
    return state


async def edit(fixture: Fixture, **spec: Any) -> None:
    fixture.put({**fixture.manifest, "spec": {**fixture.manifest["spec"], **spec}})
    await fixture.reconcile()


async def test_state_is_the_same_object_in_every_reconcile() -> None:
    fixture = Fixture(scaled())
    state = await observed(fixture)
    await edit(fixture, autoscaling={**AUTOSCALING, "maxReplicas": 5})
    assert fixture.reconciler.states == {KEY: state}
    assert state.autoscaler
    assert state.autoscaler.replicas == 5
    assert fixture.monitor.unwatched == []


async def test_status_shows_the_decision_of_the_autoscaler() -> None:
    fixture = Fixture(scaled())
    await observed(fixture)
    status = fixture.cache.consumers[KEY]["status"]
    assert (status["autoscaling"]["desiredReplicas"], status["stream"]["lag"]) == (7, 100)
    assert {"ScalingActive", "ScalingLimited"} <= {each["type"] for each in status["conditions"]}


async def test_a_deleted_resource_leaves_no_state() -> None:
    fixture = Fixture(scaled())
    await observed(fixture)
    fixture.cache.remove(fixture.manifest)
    await fixture.reconcile()
    assert fixture.reconciler.states == {}
    assert fixture.monitor.unwatched == [KEY]


async def test_a_recreated_resource_starts_without_the_state_of_the_previous_one() -> None:
    fixture = Fixture(scaled())
    before = await observed(fixture)
    for child in fixture.cache.children(KEY):
        fixture.cache.remove(child)
    fixture.kube.objects.clear()
    fixture.put(stored(scaled(), uid="another"))
    await fixture.reconcile()
    after = fixture.reconciler.states[KEY]
    assert after is not before
    assert after.uid == "another"
    assert after.published is None
    assert after.autoscaler
    assert (after.autoscaler.published, after.autoscaler.replicas) == (None, 0)
    assert fixture.monitor.unwatched == [KEY]


async def test_a_suspended_resource_drops_its_stream_and_its_scaling_history() -> None:
    fixture = Fixture(scaled())
    state = await observed(fixture)
    await edit(fixture, suspend=True)
    assert fixture.reconciler.states == {KEY: state}
    assert (state.stream, state.autoscaler, state.published) == (None, None, None)
    assert fixture.monitor.unwatched == [KEY]


async def test_an_invalid_resource_drops_its_stream_and_its_scaling_history() -> None:
    fixture = Fixture(scaled())
    state = await observed(fixture)
    await edit(fixture, batchCount=0)
    assert (state.stream, state.autoscaler) == (None, None)


async def test_a_resource_without_autoscaling_has_no_autoscaler() -> None:
    fixture = Fixture(scaled())
    state = await observed(fixture)
    fixture.put({**fixture.manifest, "spec": manifest()["spec"]})
    await fixture.reconcile()
    assert state.autoscaler is None
    assert state.stream is not None


async def test_observations_have_no_effect_without_an_autoscaler() -> None:
    fixture = Fixture()
    await fixture.reconcile()
    effect = fixture.reconciler.states[KEY].on_observation(replace(OBSERVATION, entries_read=None))
    assert not effect.scaled_to_zero
    assert not effect.decision_changed
