"""Make the cluster hold what one StreamConsumer asks for, and report what it holds.

Level-triggered: whatever woke us, everything is compared and only differences are written. The children are
server-side applied; what belongs to somebody else is never touched; one status write, and none when nothing changed.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from streamconsumer.errors import ChildRefused, InvalidResource, NameTaken
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import CONDITIONS, Reason, Status, Verdict, conditions
from streamconsumer.operator.autoscaling.autoscaler import Scaler
from streamconsumer.operator.autoscaling.pod_deletion_cost import ANNOTATION, costs
from streamconsumer.operator.cache.object_cache import Store
from streamconsumer.operator.cache.transform import mapping
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.client import Cluster
from streamconsumer.operator.kube.event_recorder import Events
from streamconsumer.operator.manifests import Manifest, desired
from streamconsumer.operator.manifests.metadata import child_name, owned_by
from streamconsumer.operator.reconcile.config_hash import references
from streamconsumer.operator.reconcile.drift import holds
from streamconsumer.operator.reconcile.readiness import answered, effective, mounted, ran, verdict
from streamconsumer.operator.reconcile.status_debounce import Change, News
from streamconsumer.operator.redis_monitor.monitor import Streams
from streamconsumer.operator.settings import OperatorSettings

ASK_AGAIN = timedelta(minutes=1)
"""After how long a child that was refused is applied again: a quota or a policy may have changed."""

LOOK_AGAIN = timedelta(seconds=5)
"""No watch tells when a name becomes free: the object that has it does not bear our labels."""

UPDATED = "Updated"
"""Logged and not an Event: whoever edited knows, the status says how far it is, and an Event is one more write."""

log = logging.getLogger(__name__)


@dataclass
class Reconciler:
    """Reads the store, writes the cluster."""

    cluster: Cluster
    store: Store
    settings: OperatorSettings
    streams: Streams
    scaler: Scaler
    events: Events
    news: News = field(default_factory=News)
    lives: dict[Key, str] = field(default_factory=dict)
    """The uid of the StreamConsumer that all of this is known of."""

    async def reconcile(self, key: Key) -> timedelta | None:
        """Bring one StreamConsumer up to date. Raises what the API raised; the queue tries again. Returns after how
        long to look again at what no watch will tell of."""
        manifest = self.store.consumers.get(key)
        if manifest is None or manifest["metadata"].get("deletionTimestamp"):
            self._forget(key)  # Kubernetes deletes the children by their owner references
            return None
        if self.lives.setdefault(key, uid := manifest["metadata"]["uid"]) != uid:
            self._forget(key)  # its deletion and the next one of its name came in one breath
            self.lives[key] = uid
        try:
            consumer = StreamConsumer.parse(manifest)
            self._attend(consumer, manifest)
            if leftovers := self._leftovers(key, consumer):
                await self._report(manifest, _waiting_for(leftovers), [])
                return None
            consumer = self._scaled(key, consumer, manifest)
            changes = await self._converge(key, consumer)
        except (InvalidResource, NameTaken, ChildRefused) as error:
            return await self._stall(key, manifest, error)
        deployment = self.store.child(key, "Deployment", child_name(consumer))
        seen = self.streams.told(key)
        found = verdict(consumer, deployment, self.store.pods(key), seen.facts if seen else ())
        self.news.add(key, changes)
        if moving := self.news.wait(key, (found, seen), answered=answered(deployment)):
            return moving
        await self._report(manifest, found, self.news.take(key))
        return None

    async def _stall(self, key: Key, manifest: Manifest, error: Exception) -> timedelta | None:
        """Say what keeps it from being done. Returns when to try again without an edit."""
        if isinstance(error, InvalidResource):
            self._look_away(key)
            await self._report(manifest, _stalled(Reason.INVALID_SPEC, str(error)), [])
            return None
        if isinstance(error, NameTaken):
            await self._report(manifest, _stalled(Reason.NAME_TAKEN, str(error)), [])
            return LOOK_AGAIN
        await self._report(manifest, _stalled(Reason.CHILD_REFUSED, f"The API server refused {error}"), [])
        return ASK_AGAIN

    def _forget(self, key: Key) -> None:
        """Whoever comes under this name is another one."""
        self.lives.pop(key, None)
        self.news.take(key)
        self._look_away(key)

    def _attend(self, consumer: StreamConsumer, manifest: Manifest) -> None:
        """Have the stream looked at, before there are pods: what is added from now on counts for a new group. Nobody
        looks for who is suspended."""
        if consumer.spec.suspend:
            self.streams.forget((consumer.namespace, consumer.name))
            return
        pods = [*self.store.pods((consumer.namespace, consumer.name))]
        before = _previous(manifest.get("status") or {}).stream
        self.streams.attend(
            consumer,
            frozenset(pod["metadata"]["name"] for pod in pods),
            before.last_delivered_id if before else None,
            one_ran=any(ran(pod) for pod in pods),
        )

    def _look_away(self, key: Key) -> None:
        self.streams.forget(key)
        self.scaler.forget(key)

    def _scaled(self, key: Key, consumer: StreamConsumer, manifest: Manifest) -> StreamConsumer:
        """With as many replicas as its backlog wants, where it scales itself and is not suspended."""
        if consumer.spec.suspend:
            self.scaler.forget(key)
            return consumer
        live = self.store.child(key, "Deployment", child_name(consumer))
        current = live["spec"].get("replicas", 1) if live else None
        before = _previous(manifest.get("status") or {})
        frozen = any(each.type == "Stalled" and each.status == "True" for each in before.conditions)
        return self.scaler.attend(consumer, current, frozen=frozen)

    def _leftovers(self, key: Key, consumer: StreamConsumer) -> list[Manifest]:
        """Children of a deleted StreamConsumer of this name, which Kubernetes is about to delete too."""
        return [child for child in self.store.children(key) if _of_a_namesake(consumer, child)]

    async def _converge(self, key: Key, consumer: StreamConsumer) -> list[Change]:
        referred = await references(consumer, self.cluster)
        wanted = desired(consumer, self.settings, referred)
        changes = [change for child in wanted if (change := await self._ensure(key, consumer, child))]
        return [*changes, *await self._prune(key, consumer, wanted)]

    async def _ensure(self, key: Key, consumer: StreamConsumer, wanted: Manifest) -> Change | None:
        """Apply one child if it is missing, outdated or drifted."""
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        live = self.store.child(key, kind, name)
        if live is None:  # not in the store: there is none, or it is somebody else's and lacks our label
            live = await self.cluster.get(wanted["apiVersion"], kind, consumer.namespace, name)
        if live is not None and not owned_by(consumer.uid, live):
            raise NameTaken(
                f"{kind} {consumer.namespace}/{name} exists and does not belong to this StreamConsumer; "
                "delete or rename it, or give the StreamConsumer another name"
            )
        if live is not None and holds(live, wanted):
            self.store.put({"apiVersion": wanted["apiVersion"], "kind": kind, **live})
            return None
        if live is not None and _takes_pods_away(live, wanted):
            await self._idle_first(key)
        self.store.put(await self.cluster.apply(wanted))
        return self._change(key, live, wanted)

    async def _idle_first(self, key: Key) -> None:
        """Tell Kubernetes which pods hold entries, before it chooses who goes. A courtesy: each drains all the same."""
        for name, cost in costs(self.store.pods(key), self.scaler.holding(key)).items():
            try:
                await self.cluster.annotate_pod(key[0], name, {ANNOTATION: str(cost)})
            except Exception:
                log.info("cannot say which pods are busy", exc_info=True, extra={"namespace": key[0], "pod": name})
                return

    def _change(self, key: Key, live: Manifest | None, wanted: Manifest) -> Change:
        """A number of pods that was decided has its own words: what was seen, and what it was measured by."""
        decision = self.scaler.told(key)
        if live is not None and decision is not None and wanted["kind"] == "Deployment":
            step = wanted["spec"]["replicas"] - live["spec"].get("replicas", 1)
            if step and wanted["spec"]["replicas"] == decision.desired_replicas:
                return Change("ScaledUp" if step > 0 else "ScaledDown", decision.message)
        return _change(live, wanted)

    async def _prune(self, key: Key, consumer: StreamConsumer, wanted: list[Manifest]) -> list[Change]:
        """Delete the children that are ours, no longer wanted, and in no running pod's use."""
        kept = {(child["kind"], child["metadata"]["name"]) for child in wanted}
        kept |= {("ConfigMap", name) for name in mounted(self.store.pods(key))}
        gone = [
            child
            for child in self.store.owned(key, consumer.uid)
            if (child["kind"], child["metadata"]["name"]) not in kept
        ]
        for child in gone:
            await self.cluster.delete(child)
            self.store.drop(child)
        return [Change("Pruned", f"{child['kind']} {child['metadata']['name']} is no longer wanted") for child in gone]

    async def _report(self, manifest: Manifest, found: Verdict, changes: list[Change]) -> None:
        """Write the status if it differs, and events for what changed."""
        metadata = manifest["metadata"]
        self.scaler.freeze((metadata["namespace"], metadata["name"]), frozen=found.stalled)
        before = _previous(manifest.get("status") or {})
        status = self._status((metadata["namespace"], metadata["name"]), manifest, found, before)
        if status != before:
            written = await self.cluster.apply_status(metadata["namespace"], metadata["name"], status)
            if written is None:
                self.store.drop(manifest)  # deleted, and the watch has not said so yet
            if written is None or not self.store.knows(manifest):
                return
            self.store.put(written)
        for reason in dict.fromkeys(change.reason for change in changes if change.reason != UPDATED):
            sentence = "; ".join(change.sentence for change in changes if change.reason == reason)
            self.events.tell(manifest, reason, sentence, warning=reason == "DriftRepaired")
        if found.stalled and _told(status) != _told(before):
            self.events.tell(manifest, found.reason, found.message, warning=True)

    def _status(self, key: Key, manifest: Manifest, found: Verdict, before: Status) -> Status:
        name, generation = key[1], manifest["metadata"].get("generation", 0)
        mine = self.store.owned(key, manifest["metadata"]["uid"])
        deployments = [child for child in mine if child["kind"] == "Deployment"]
        counts = deployments[0].get("status", {}) if deployments else {}
        seen = self.streams.told(key)
        facts = (*seen.facts, *self.scaler.facts(key)) if seen else ()
        wants_scaling = mapping(manifest.get("spec")).get("autoscaling")
        return Status(
            observed_generation=generation,
            conditions=conditions(found, generation, before.conditions, datetime.now(UTC), facts),
            desired_replicas=deployments[0]["spec"].get("replicas", 1) if deployments else 0,
            replicas=counts.get("replicas", 0),
            ready_replicas=counts.get("readyReplicas", 0),
            selector=f"{names.LABEL_CONSUMER}={name}",
            effective=effective(deployments[0]) if deployments else None,
            stream=seen.figures if seen else before.stream,
            autoscaling=self.scaler.told(key) or (before.autoscaling if wants_scaling else None),
        )


def _of_a_namesake(consumer: StreamConsumer, live: Manifest) -> bool:
    owners = live["metadata"].get("ownerReferences", [])
    mine = [owner for owner in owners if (owner.get("kind"), owner.get("name")) == (names.KIND, consumer.name)]
    return bool(mine) and all(owner.get("uid") != consumer.uid for owner in mine)


def _takes_pods_away(live: Manifest, wanted: Manifest) -> bool:
    return wanted["kind"] == "Deployment" and bool(wanted["spec"]["replicas"] < live["spec"].get("replicas", 1))


def _change(live: Manifest | None, wanted: Manifest) -> Change:
    what = f"{wanted['kind']} {wanted['metadata']['name']}"
    if live is None:
        return Change("Created", f"{what} created")
    stamps = [each["metadata"].get("annotations", {}).get(names.ANNOTATION_APPLIED) for each in (live, wanted)]
    if stamps[0] == stamps[1]:
        return Change("DriftRepaired", f"{what} was changed by somebody else and is put right")
    return Change(UPDATED, f"{what} updated")


def _stalled(reason: Reason, message: str) -> Verdict:
    return Verdict(ready=False, reason=reason, message=message, stalled=True)


def _waiting_for(leftovers: list[Manifest]) -> Verdict:
    what = ", ".join(f"{child['kind']} {child['metadata']['name']}" for child in leftovers)
    message = f"Waiting until Kubernetes has deleted what belonged to an earlier StreamConsumer of this name: {what}."
    return Verdict(ready=False, reason=Reason.PODS_STARTING, message=message, reconciling=True)


def _previous(status: dict[str, Any]) -> Status:
    """Our part of the status as it stands; one that somebody else garbled counts as none."""
    try:
        found = Status.model_validate(status)
    except ValidationError:
        return Status()
    return found.model_copy(update={"conditions": [each for each in found.conditions if each.type in CONDITIONS]})


def _told(status: Status) -> tuple[str, int]:
    """What an event is about: its words may differ from one look to the next, as the kubelet's do about an image."""
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    return (ready.reason, ready.observed_generation) if ready else ("", 0)
