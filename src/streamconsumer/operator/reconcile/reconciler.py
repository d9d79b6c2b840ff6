"""The reconcile of a StreamConsumer: monitor its stream, apply its children, delete obsolete children, and write its
status.

The reconcile is level-triggered: every reconcile compares all children and writes only the differences, whatever event
caused the reconcile. Children are applied server-side, and objects of other owners are never changed. A reconcile
writes the status at most once, and only if the status has changed.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from streamconsumer.errors import ApiThrottled, ChildRejected, InvalidResource, NameConflict
from streamconsumer.model import names
from streamconsumer.model.field_hints import field_path
from streamconsumer.model.fields import format_errors
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import CONDITIONS, Readiness, Reason, Status, build_conditions
from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.transform import as_mapping
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.api import api_error_message
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.event_recorder import EventRecorder
from streamconsumer.operator.kube.paths import label_selector
from streamconsumer.operator.kube.status_writer import StatusWriter
from streamconsumer.operator.manifests import Manifest, ReferenceHashes, desired
from streamconsumer.operator.manifests.metadata import child_name
from streamconsumer.operator.reconcile.child_applier import UPDATED, ChildApplier, kind_and_name
from streamconsumer.operator.reconcile.config_hash import ConfigReader, next_references, read_reference_hashes
from streamconsumer.operator.reconcile.consumer_state import ConsumerState
from streamconsumer.operator.reconcile.readiness import (
    effective,
    evaluate_readiness,
    is_observed,
)
from streamconsumer.operator.reconcile.status_debounce import Change, StatusDebounce
from streamconsumer.operator.redis_monitor.monitor import RedisMonitor
from streamconsumer.operator.redis_monitor.monitored_stream import PollTarget
from streamconsumer.operator.settings import OperatorSettings

REPORTED_FAILURES = 3
"""Number of failed reconciles in a row after which the status reports the error. Single failures are normal, for
example during an upgrade of the API server."""

REJECTED_RETRY = timedelta(minutes=1)
"""The delay before a rejected child is applied again, because a quota or a policy may have changed."""

CONFLICT_RETRY = timedelta(seconds=5)
"""The delay before the operator checks again whether a conflicting object exists. No watch reports the deletion of this
object, because the object does not have the operator's labels."""


@dataclass
class Reconciler:
    """Reconciles StreamConsumers: reads objects from the cache and writes to the API server."""

    kube: KubeClient
    secrets: ConfigReader
    cache: ObjectCache
    settings: OperatorSettings
    redis_monitor: RedisMonitor
    events: EventRecorder
    status_writer: StatusWriter
    status_debounce: StatusDebounce = field(default_factory=StatusDebounce)
    states: dict[Key, ConsumerState] = field(default_factory=dict)
    """The state of every known StreamConsumer."""
    children: ChildApplier = field(init=False)

    def __post_init__(self) -> None:
        self.children = ChildApplier(self.kube, self.cache)

    async def reconcile(self, key: Key) -> timedelta | None:
        """Reconcile one StreamConsumer.

        Returns the delay before the next reconcile, or None if a watch will report the next change. If a request to the
        API server fails, raises the error, and the work queue retries."""
        manifest = self.cache.consumers.get(key)
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            self.forget(key)  # Kubernetes deletes the children by their owner references
            return None
        state = self._state_of(key, manifest["metadata"]["uid"])
        try:
            delay = await self._reconcile(state, manifest)
        except ApiThrottled:
            raise
        except Exception as error:
            state.failures += 1
            if state.failures >= REPORTED_FAILURES:
                await self._report_failure(state, manifest, error)
            raise
        state.failures = 0
        return delay

    async def _reconcile(self, state: ConsumerState, manifest: Manifest) -> timedelta | None:
        key = state.key
        try:
            self.cache.check_admitted(key)
            whole = await self._read_whole(manifest)
            if whole is None:
                return None
            manifest = whole
            consumer = StreamConsumer.parse(manifest)
            self._start_monitoring(state, consumer, manifest)
            if leftovers := self._children_of_previous_uid(key, consumer):
                await self._write_status(state, manifest, _waiting_for_deletion(leftovers), [])
                return None
            consumer = self._with_replicas(state, consumer, manifest)
            changes = await self._apply_children(state, consumer)
        except (InvalidResource, NameConflict, ChildRejected) as error:
            return await self._stall(state, manifest, error)
        deployment = self.cache.child(key, "Deployment", child_name(consumer))
        observation = state.published
        stream_conditions = observation.conditions if observation else ()
        readiness = evaluate_readiness(consumer, deployment, self.cache.pods(key), stream_conditions)
        self.status_debounce.add(state.pending_changes, changes)
        repair_delay = state.repairs.pop_delay()
        if delay := self.status_debounce.delay(
            state.pending_changes,
            (readiness, observation),
            is_observed=is_observed(deployment),
            in_motion=self._count_in_motion,
        ):
            return min(delay, repair_delay or delay)
        await self._write_status(state, manifest, readiness, state.pending_changes.pop())
        return repair_delay

    async def _report_failure(self, state: ConsumerState, manifest: Manifest, error: Exception) -> None:
        """Report in the status that requests to the API server fail. The readiness is that of the existing pods. If the
        status cannot be written either, the error is only logged."""
        readiness = Readiness(
            ready=_has_desired_pods(self._deployment(state)),
            reason=Reason.RECONCILE_FAILED,
            message=f"A request of the operator to the API server fails repeatedly: {api_error_message(error)}",
            reconciling=True,
        )
        with suppress(Exception):  # the caller raises the first error, and the work queue logs it
            await self._write_status(state, manifest, readiness, [])

    async def _read_whole(self, manifest: Manifest) -> Manifest | None:
        """Return the StreamConsumer with all fields. Returns None if the StreamConsumer was deleted in the meantime,
        which the watch will report."""
        if not self.cache.is_reduced(manifest):
            return manifest
        metadata = manifest["metadata"]
        whole = await self.kube.get(names.API_VERSION, names.KIND, metadata["namespace"], metadata["name"])
        return whole if whole and self.cache.contains(whole) else None

    def _state_of(self, key: Key, uid: str) -> ConsumerState:
        """Return the state of the StreamConsumer with this uid. If the uid is unknown, a new state is returned."""
        state = self.states.get(key)
        if state is None or state.uid != uid:
            self.forget(key)  # the resource was deleted and created again between two reconciles
            state = self.states[key] = ConsumerState(key, uid)
        return state

    def forget(self, key: Key) -> None:
        """Drop the state of a StreamConsumer that no longer exists or whose namespace is not served, and stop polling
        its stream."""
        if state := self.states.pop(key, None):
            self._stop_monitoring(state)

    def _count_in_motion(self) -> int:
        """Count the StreamConsumers whose status does not show all changes to the children yet."""
        return sum(bool(state.pending_changes.changes) for state in self.states.values())

    async def _stall(self, state: ConsumerState, manifest: Manifest, error: Exception) -> timedelta | None:
        """Report in the status why the reconcile cannot finish. Returns the delay before a retry, or None if the user
        must edit the StreamConsumer first."""
        if isinstance(error, InvalidResource):
            self._stop_monitoring(state)
            await self._write_status(state, manifest, _stalled(Reason.INVALID_SPEC, str(error)), [])
            return None
        if isinstance(error, NameConflict):
            await self._write_status(state, manifest, _stalled(Reason.NAME_CONFLICT, str(error)), [])
            return CONFLICT_RETRY
        message = f"The API server rejected {error}"
        await self._write_status(state, manifest, _stalled(Reason.CHILD_REJECTED, message), [])
        return REJECTED_RETRY

    def _deployment(self, state: ConsumerState) -> Manifest | None:
        """Return the StreamConsumer's own Deployment, or None."""
        children = self.cache.owned(state.key, state.uid)
        return next((child for child in children if child["kind"] == "Deployment"), None)

    def _start_monitoring(self, state: ConsumerState, consumer: StreamConsumer, manifest: Manifest) -> None:
        """Start polling the stream before pods exist, so that a new group includes entries that are added from now on.
        If the StreamConsumer is suspended, stop polling the stream."""
        if consumer.spec.suspend:
            self._stop_monitoring(state)
            return
        pods = self.cache.pods(state.key)
        previous = _previous_status(manifest.get("status") or {}).stream
        target = PollTarget.from_consumer(
            consumer,
            frozenset(pod["metadata"]["name"] for pod in pods),
            previous.last_delivered_id if previous else None,
        )
        state.stream = self.redis_monitor.watch(state.stream, consumer, target, state.on_observation)

    def _stop_monitoring(self, state: ConsumerState) -> None:
        """Stop polling the stream, and drop the poll results and the scaling history."""
        if state.stream is not None:
            self.redis_monitor.unwatch(state.stream)
        state.stream = state.autoscaler = None

    def _with_replicas(self, state: ConsumerState, consumer: StreamConsumer, manifest: Manifest) -> StreamConsumer:
        """Return the StreamConsumer with the number of pods that its autoscaler decided. If autoscaling is not set or
        the StreamConsumer is suspended, the StreamConsumer is returned unchanged."""
        rules = consumer.spec.autoscaling
        if rules is None or consumer.spec.suspend:
            state.autoscaler = None
            return consumer
        live = self.cache.child(state.key, "Deployment", child_name(consumer))
        current = live["spec"].get("replicas", 1) if live else None
        previous = _previous_status(manifest.get("status") or {})
        state.autoscaler = Autoscaler.with_rules(rules, state.autoscaler, current)
        state.autoscaler.is_frozen = any(
            each.type == "Stalled" and each.status == "True" for each in previous.conditions
        )
        return state.autoscaler.with_replicas(consumer)

    def _children_of_previous_uid(self, key: Key, consumer: StreamConsumer) -> list[Manifest]:
        """Return the children of a deleted StreamConsumer with the name of this StreamConsumer. Kubernetes is about to
        delete these children."""
        return [child for child in self.cache.children(key) if _owned_by_previous_uid(consumer, child)]

    async def _apply_children(self, state: ConsumerState, consumer: StreamConsumer) -> list[Change]:
        references = await self._references(state, consumer)
        try:
            manifests = desired(consumer, self.settings, references)
        except ValidationError as error:  # the settings of the pod reject a value that the spec accepts
            raise InvalidResource("; ".join(format_errors(error, field_path))) from None
        return await self.children.apply(state, consumer, manifests)

    async def _references(self, state: ConsumerState, consumer: StreamConsumer) -> ReferenceHashes:
        """Return the annotations with the hashes of referenced Secrets and ConfigMaps, computed from the current hashes
        and the annotations of the live Deployment."""
        hashes = await read_reference_hashes(consumer, self.secrets)
        if hashes is None:
            return ReferenceHashes()
        live = await self.children.live(state.key, "apps/v1", "Deployment", child_name(consumer))
        return next_references(live, hashes)

    async def _write_status(
        self, state: ConsumerState, manifest: Manifest, readiness: Readiness, changes: list[Change]
    ) -> None:
        """Write the status if it has changed, and record Events for the changes to children."""
        if state.autoscaler:
            state.autoscaler.is_frozen = readiness.stalled  # the next poll may come before the next reconcile
        previous = _previous_status(manifest.get("status") or {})
        status = self._build_status(state, manifest, readiness, previous)
        if status != previous:
            written = await self.status_writer.write(*state.key, status)
            if written is None:
                self.cache.remove(manifest)  # deleted, and the watch has not reported the deletion yet
            if written is None or not self.cache.contains(manifest):
                return
            self.cache.upsert(written)
        for reason in dict.fromkeys(change.reason for change in changes if change.reason != UPDATED):
            message = "; ".join(dict.fromkeys(change.message for change in changes if change.reason == reason))
            self.events.record(manifest, reason, message, warning=reason == "DriftRepaired")
        is_problem = readiness.stalled or readiness.reason is Reason.RECONCILE_FAILED
        if is_problem and _event_key(status) != _event_key(previous):
            self.events.record(manifest, readiness.reason, readiness.message, warning=True)

    def _build_status(self, state: ConsumerState, manifest: Manifest, readiness: Readiness, previous: Status) -> Status:
        generation = manifest["metadata"].get("generation", 0)
        deployment = self._deployment(state)
        counts = deployment.get("status", {}) if deployment else {}
        observation, autoscaler = state.published, state.autoscaler
        stream_conditions = observation.conditions if observation else ()
        scaling_conditions = autoscaler.conditions() if observation and autoscaler else ()
        decision = autoscaler.published if autoscaler else None
        wants_scaling = as_mapping(manifest.get("spec")).get("autoscaling")
        facts = (*stream_conditions, *scaling_conditions)
        return Status(
            observed_generation=generation,
            conditions=build_conditions(readiness, generation, previous.conditions, datetime.now(UTC), facts),
            desired_replicas=deployment["spec"].get("replicas", 1) if deployment else 0,
            replicas=counts.get("replicas", 0),
            ready_replicas=counts.get("readyReplicas", 0),
            selector=label_selector({names.LABEL_CONSUMER: state.key[1]}),
            effective=effective(deployment) if deployment else None,
            stream=observation.stats if observation else previous.stream,
            autoscaling=decision or (previous.autoscaling if wants_scaling else None),
        )


def _owned_by_previous_uid(consumer: StreamConsumer, live: Manifest) -> bool:
    owners = live["metadata"].get("ownerReferences", [])
    namesakes = [owner for owner in owners if (owner.get("kind"), owner.get("name")) == (names.KIND, consumer.name)]
    return bool(namesakes) and all(owner.get("uid") != consumer.uid for owner in namesakes)


def _has_desired_pods(deployment: Manifest | None) -> bool:
    if deployment is None:
        return False
    available = deployment.get("status", {}).get("availableReplicas", 0)
    return bool(available >= deployment["spec"].get("replicas", 1))


def _stalled(reason: Reason, message: str) -> Readiness:
    return Readiness(ready=False, reason=reason, message=message, stalled=True)


def _waiting_for_deletion(children: list[Manifest]) -> Readiness:
    objects = ", ".join(map(kind_and_name, children))
    message = f"Waiting for {objects}, owned by a previous StreamConsumer of the same name, to be deleted."
    return Readiness(ready=False, reason=Reason.PODS_STARTING, message=message, reconciling=True)


def _previous_status(status: dict[str, Any]) -> Status:
    """Parse the operator's part of the live status. An invalid status counts as empty."""
    try:
        previous = Status.model_validate(status)
    except ValidationError:
        return Status()
    own_conditions = [each for each in previous.conditions if each.type in CONDITIONS]
    return previous.model_copy(update={"conditions": own_conditions})


def _event_key(status: Status) -> tuple[str, int]:
    """Return the reason and the generation of the condition Ready. An Event is recorded only if the reason or the
    generation has changed. The message alone does not count, because some messages, such as the kubelet's messages
    about images, differ in every reconcile."""
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    return (ready.reason, ready.observed_generation) if ready else ("", 0)
