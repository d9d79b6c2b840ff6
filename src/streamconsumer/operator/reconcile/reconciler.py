"""Make the cluster hold what one StreamConsumer asks for, and report what it holds.

Level-triggered: whatever woke us, everything is compared and only differences are written. The children are
server-side applied; what belongs to somebody else is never touched; one status write, and none when nothing changed.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from streamconsumer.errors import ChildRejected, InvalidResource, NameConflict
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import CONDITIONS, Readiness, Reason, Status, build_conditions
from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.autoscaling.pod_deletion_cost import ANNOTATION, deletion_costs
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.transform import as_mapping
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.kube.event_recorder import EventRecorder
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.manifests.metadata import child_name, owned_by
from streamconsumer.operator.reconcile.config_hash import referenced_config_hash
from streamconsumer.operator.reconcile.drift import contains_applied
from streamconsumer.operator.reconcile.readiness import (
    effective,
    evaluate_readiness,
    has_started,
    is_observed,
    mounted_config_maps,
)
from streamconsumer.operator.reconcile.status_debounce import Change, StatusDebounce
from streamconsumer.operator.redis_monitor.monitor import RedisMonitor
from streamconsumer.operator.settings import OperatorSettings

REJECTED_RETRY = timedelta(minutes=1)
"""After how long a child that was refused is applied again: a quota or a policy may have changed."""

CONFLICT_RETRY = timedelta(seconds=5)
"""No watch tells when a name becomes free: the object that has it does not bear our labels."""

UPDATED = "Updated"
"""Logged and not an Event: whoever edited knows, the status says how far it is, and an Event is one more write."""

log = logging.getLogger(__name__)


@dataclass
class Reconciler:
    """Reads the store, writes the cluster."""

    kube: KubeClient
    cache: ObjectCache
    settings: OperatorSettings
    redis_monitor: RedisMonitor
    autoscaler: Autoscaler
    events: EventRecorder
    status_debounce: StatusDebounce = field(default_factory=StatusDebounce)
    uids: dict[Key, str] = field(default_factory=dict)
    """The uid of the StreamConsumer that all of this is known of."""

    async def reconcile(self, key: Key) -> timedelta | None:
        """Bring one StreamConsumer up to date. Raises what the API raised; the queue tries again. Returns after how
        long to look again at what no watch will tell of."""
        manifest = self.cache.consumers.get(key)
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            self._forget(key)  # Kubernetes deletes the children by their owner references
            return None
        if self.uids.setdefault(key, uid := manifest["metadata"]["uid"]) != uid:
            self._forget(key)  # its deletion and the next one of its name came in one breath
            self.uids[key] = uid
        try:
            consumer = StreamConsumer.parse(manifest)
            self._start_monitoring(consumer, manifest)
            if leftovers := self._children_of_previous_uid(key, consumer):
                await self._write_status(manifest, _waiting_for_deletion(leftovers), [])
                return None
            consumer = self._with_replicas(key, consumer, manifest)
            changes = await self._apply_children(key, consumer)
        except (InvalidResource, NameConflict, ChildRejected) as error:
            return await self._stall(key, manifest, error)
        deployment = self.cache.child(key, "Deployment", child_name(consumer))
        seen = self.redis_monitor.published(key)
        found = evaluate_readiness(consumer, deployment, self.cache.pods(key), seen.conditions if seen else ())
        self.status_debounce.add(key, changes)
        if moving := self.status_debounce.delay(key, (found, seen), is_observed=is_observed(deployment)):
            return moving
        await self._write_status(manifest, found, self.status_debounce.pop_changes(key))
        return None

    async def _stall(self, key: Key, manifest: Manifest, error: Exception) -> timedelta | None:
        """Say what keeps it from being done. Returns when to try again without an edit."""
        if isinstance(error, InvalidResource):
            self._stop_monitoring(key)
            await self._write_status(manifest, _stalled(Reason.INVALID_SPEC, str(error)), [])
            return None
        if isinstance(error, NameConflict):
            await self._write_status(manifest, _stalled(Reason.NAME_CONFLICT, str(error)), [])
            return CONFLICT_RETRY
        await self._write_status(manifest, _stalled(Reason.CHILD_REJECTED, f"The API server refused {error}"), [])
        return REJECTED_RETRY

    def _forget(self, key: Key) -> None:
        """Whoever comes under this name is another one."""
        self.uids.pop(key, None)
        self.status_debounce.pop_changes(key)
        self._stop_monitoring(key)

    def _start_monitoring(self, consumer: StreamConsumer, manifest: Manifest) -> None:
        """Have the stream looked at, before there are pods: what is added from now on counts for a new group. Nobody
        looks for who is suspended."""
        if consumer.spec.suspend:
            self.redis_monitor.unwatch((consumer.namespace, consumer.name))
            return
        pods = [*self.cache.pods((consumer.namespace, consumer.name))]
        before = _previous_status(manifest.get("status") or {}).stream
        self.redis_monitor.watch(
            consumer,
            frozenset(pod["metadata"]["name"] for pod in pods),
            before.last_delivered_id if before else None,
            pod_has_run=any(has_started(pod) for pod in pods),
        )

    def _stop_monitoring(self, key: Key) -> None:
        self.redis_monitor.unwatch(key)
        self.autoscaler.forget(key)

    def _with_replicas(self, key: Key, consumer: StreamConsumer, manifest: Manifest) -> StreamConsumer:
        """With as many replicas as its backlog wants, where it scales itself and is not suspended."""
        if consumer.spec.suspend:
            self.autoscaler.forget(key)
            return consumer
        live = self.cache.child(key, "Deployment", child_name(consumer))
        current = live["spec"].get("replicas", 1) if live else None
        before = _previous_status(manifest.get("status") or {})
        frozen = any(each.type == "Stalled" and each.status == "True" for each in before.conditions)
        return self.autoscaler.with_replicas(consumer, current, is_frozen=frozen)

    def _children_of_previous_uid(self, key: Key, consumer: StreamConsumer) -> list[Manifest]:
        """Children of a deleted StreamConsumer of this name, which Kubernetes is about to delete too."""
        return [child for child in self.cache.children(key) if _owned_by_previous_uid(consumer, child)]

    async def _apply_children(self, key: Key, consumer: StreamConsumer) -> list[Change]:
        referred = await referenced_config_hash(consumer, self.kube)
        wanted = desired(consumer, self.settings, referred)
        changes = [change for child in wanted if (change := await self._apply_child(key, consumer, child))]
        return [*changes, *await self._prune(key, consumer, wanted)]

    async def _apply_child(self, key: Key, consumer: StreamConsumer, manifest: Manifest) -> Change | None:
        """Apply one child if it is missing, outdated or drifted."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        live = self.cache.child(key, kind, name)
        if live is None:  # not in the store: there is none, or it is somebody else's and lacks our label
            live = await self.kube.get(manifest["apiVersion"], kind, consumer.namespace, name)
        if live is not None and not owned_by(consumer.uid, live):
            raise NameConflict(
                f"{kind} {consumer.namespace}/{name} exists and does not belong to this StreamConsumer; "
                "delete or rename it, or give the StreamConsumer another name"
            )
        if live is not None and contains_applied(live, manifest):
            self.cache.upsert({"apiVersion": manifest["apiVersion"], "kind": kind, **live})
            return None
        if live is not None and _scales_down(live, manifest):
            await self._set_deletion_costs(key)
        self.cache.upsert(await self.kube.apply(manifest))
        return self._describe_change(key, live, manifest)

    async def _set_deletion_costs(self, key: Key) -> None:
        """Tell Kubernetes which pods hold entries, before it chooses who goes. A courtesy: each drains all the same."""
        for name, cost in deletion_costs(self.cache.pods(key), self.autoscaler.pending_by_pod(key)).items():
            try:
                await self.kube.annotate_pod(key[0], name, {ANNOTATION: str(cost)})
            except Exception:
                log.info("cannot say which pods are busy", exc_info=True, extra={"namespace": key[0], "pod": name})
                return

    def _describe_change(self, key: Key, live: Manifest | None, manifest: Manifest) -> Change:
        """A number of pods that was decided has its own words: what was seen, and what it was measured by."""
        decision = self.autoscaler.published(key)
        if live is not None and decision is not None and manifest["kind"] == "Deployment":
            step = manifest["spec"]["replicas"] - live["spec"].get("replicas", 1)
            if step and manifest["spec"]["replicas"] == decision.desired_replicas:
                return Change("ScaledUp" if step > 0 else "ScaledDown", decision.message)
        return _describe_apply(live, manifest)

    async def _prune(self, key: Key, consumer: StreamConsumer, manifests: list[Manifest]) -> list[Change]:
        """Delete the children that are ours, no longer wanted, and in no running pod's use."""
        kept = {(child["kind"], child["metadata"]["name"]) for child in manifests}
        kept |= {("ConfigMap", name) for name in mounted_config_maps(self.cache.pods(key))}
        gone = [
            child
            for child in self.cache.owned(key, consumer.uid)
            if (child["kind"], child["metadata"]["name"]) not in kept
        ]
        for child in gone:
            await self.kube.delete(child)
            self.cache.remove(child)
        return [Change("Pruned", f"{child['kind']} {child['metadata']['name']} is no longer wanted") for child in gone]

    async def _write_status(self, manifest: Manifest, readiness: Readiness, changes: list[Change]) -> None:
        """Write the status if it differs, and events for what changed."""
        metadata = manifest["metadata"]
        self.autoscaler.set_frozen((metadata["namespace"], metadata["name"]), is_frozen=readiness.stalled)
        before = _previous_status(manifest.get("status") or {})
        status = self._build_status((metadata["namespace"], metadata["name"]), manifest, readiness, before)
        if status != before:
            written = await self.kube.apply_status(metadata["namespace"], metadata["name"], status)
            if written is None:
                self.cache.remove(manifest)  # deleted, and the watch has not said so yet
            if written is None or not self.cache.contains(manifest):
                return
            self.cache.upsert(written)
        for reason in dict.fromkeys(change.reason for change in changes if change.reason != UPDATED):
            sentence = "; ".join(change.message for change in changes if change.reason == reason)
            self.events.record(manifest, reason, sentence, warning=reason == "DriftRepaired")
        if readiness.stalled and _event_key(status) != _event_key(before):
            self.events.record(manifest, readiness.reason, readiness.message, warning=True)

    def _build_status(self, key: Key, manifest: Manifest, readiness: Readiness, previous: Status) -> Status:
        name, generation = key[1], manifest["metadata"].get("generation", 0)
        mine = self.cache.owned(key, manifest["metadata"]["uid"])
        deployments = [child for child in mine if child["kind"] == "Deployment"]
        counts = deployments[0].get("status", {}) if deployments else {}
        seen = self.redis_monitor.published(key)
        facts = (*seen.conditions, *self.autoscaler.conditions(key)) if seen else ()
        wants_scaling = as_mapping(manifest.get("spec")).get("autoscaling")
        return Status(
            observed_generation=generation,
            conditions=build_conditions(readiness, generation, previous.conditions, datetime.now(UTC), facts),
            desired_replicas=deployments[0]["spec"].get("replicas", 1) if deployments else 0,
            replicas=counts.get("replicas", 0),
            ready_replicas=counts.get("readyReplicas", 0),
            selector=f"{names.LABEL_CONSUMER}={name}",
            effective=effective(deployments[0]) if deployments else None,
            stream=seen.stats if seen else previous.stream,
            autoscaling=self.autoscaler.published(key) or (previous.autoscaling if wants_scaling else None),
        )


def _owned_by_previous_uid(consumer: StreamConsumer, live: Manifest) -> bool:
    owners = live["metadata"].get("ownerReferences", [])
    mine = [owner for owner in owners if (owner.get("kind"), owner.get("name")) == (names.KIND, consumer.name)]
    return bool(mine) and all(owner.get("uid") != consumer.uid for owner in mine)


def _scales_down(live: Manifest, manifest: Manifest) -> bool:
    return manifest["kind"] == "Deployment" and bool(manifest["spec"]["replicas"] < live["spec"].get("replicas", 1))


def _describe_apply(live: Manifest | None, manifest: Manifest) -> Change:
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    if live is None:
        return Change("Created", f"{what} created")
    stamps = [each["metadata"].get("annotations", {}).get(names.ANNOTATION_APPLIED) for each in (live, manifest)]
    if stamps[0] == stamps[1]:
        return Change("DriftRepaired", f"{what} was changed by somebody else and is put right")
    return Change(UPDATED, f"{what} updated")


def _stalled(reason: Reason, message: str) -> Readiness:
    return Readiness(ready=False, reason=reason, message=message, stalled=True)


def _waiting_for_deletion(children: list[Manifest]) -> Readiness:
    what = ", ".join(f"{child['kind']} {child['metadata']['name']}" for child in children)
    message = f"Waiting until Kubernetes has deleted what belonged to an earlier StreamConsumer of this name: {what}."
    return Readiness(ready=False, reason=Reason.PODS_STARTING, message=message, reconciling=True)


def _previous_status(status: dict[str, Any]) -> Status:
    """Our part of the status as it stands; one that somebody else garbled counts as none."""
    try:
        found = Status.model_validate(status)
    except ValidationError:
        return Status()
    return found.model_copy(update={"conditions": [each for each in found.conditions if each.type in CONDITIONS]})


def _event_key(status: Status) -> tuple[str, int]:
    """What an event is about: its words may differ from one look to the next, as the kubelet's do about an image."""
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    return (ready.reason, ready.observed_generation) if ready else ("", 0)
