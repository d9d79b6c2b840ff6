"""Writes the children of a StreamConsumer: applies children that are missing or differ, and deletes obsolete children.

Children are applied server-side. Objects that do not belong to the StreamConsumer are never changed. Their labels and
annotations are no evidence, because every client with access to the namespace can write them.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from streamconsumer.errors import NameConflict
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.autoscaling.autoscaler import Autoscaler
from streamconsumer.operator.autoscaling.pod_deletion_cost import deletion_costs
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.metadata import owned_by
from streamconsumer.operator.reconcile.consumer_state import ConsumerState
from streamconsumer.operator.reconcile.drift import Differences, describe, differences
from streamconsumer.operator.reconcile.field_ownership import is_own
from streamconsumer.operator.reconcile.readiness import mounted_config_maps
from streamconsumer.operator.reconcile.status_debounce import Change

MAX_LISTED_FIELDS = 5
"""Maximum number of overridden fields that an Event lists."""

UPDATED = "Updated"
"""The reason of a change for which no Event is recorded. An Event would be an unnecessary write, because the user who
edited the StreamConsumer knows about the edit, and the status shows the progress."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChildApplier:
    """Reads children from the cache, and writes children to the API server."""

    kube: KubeClient
    cache: ObjectCache

    async def apply(self, state: ConsumerState, consumer: StreamConsumer, manifests: list[Manifest]) -> list[Change]:
        """Apply the children that are missing or differ from their manifests, and delete the obsolete children. Returns
        the changes. Raises NameConflict and ChildRejected."""
        live = [await self.live(state.key, *_identity(manifest)) for manifest in manifests]
        if foreign := [child for child in live if child is not None and not owned_by(consumer.uid, child)]:
            raise _name_conflict(consumer, foreign)
        changes = [await self._apply_child(state, *pair) for pair in zip(live, manifests, strict=True)]
        return [*(each for group in changes for each in group), *await self._prune(state.key, consumer, manifests)]

    async def live(self, key: Key, api_version: str, kind: str, name: str) -> Manifest | None:
        """Return the live object with its apiVersion and kind, or None. The object is read from the API server in two
        cases. First, the object is not in the cache, for example because a user has removed its labels. Second, the
        cache stores only a few fields of the object."""
        cached = self.cache.child(key, kind, name)
        if cached is None or self.cache.is_reduced(cached):
            cached = await self.kube.get(api_version, kind, key[0], name)
        return cached and {"apiVersion": api_version, "kind": kind, **cached}

    async def _apply_child(self, state: ConsumerState, live: Manifest | None, manifest: Manifest) -> list[Change]:
        child, applied_hash = kind_and_name(manifest), _applied_hash(manifest)
        if live is not None and await self._is_applied(state, live, manifest):
            self.cache.upsert(live)
            return []
        if live is not None and not state.repairs.may_apply(child, applied_hash):
            return []
        if live is not None and _scales_down(live, manifest):
            await self._set_deletion_costs(state)
        stored = await self.kube.apply(manifest)
        self.cache.upsert(stored)
        state.repairs.record(child, applied_hash)
        overridden = state.outcomes.record(child, applied_hash, differences(stored, manifest))
        change = _describe_change(state.autoscaler, live, manifest)
        return [change, *([_describe_override(manifest, overridden)] if overridden else [])]

    async def _is_applied(self, state: ConsumerState, live: Manifest, manifest: Manifest) -> bool:
        """Return True if the live object is the outcome of an apply of this manifest.

        After a restart, the operator does not know the outcome of the last apply. If the annotation shows that the
        operator applied the same manifest last, each field that differs counts as overridden by an admission
        controller, unless another client owns the field."""
        child, applied_hash = kind_and_name(manifest), _applied_hash(manifest)
        found = differences(live, manifest)
        if not found or state.outcomes.is_outcome(child, applied_hash, found):
            return True
        if state.outcomes.is_known(child, applied_hash) or _applied_hash(live) != applied_hash:
            return False
        whole = await self.kube.get_with_field_owners(manifest)
        found = differences(whole, manifest)
        if whole is None or not all(is_own(whole, path) for path in found):
            return False
        state.outcomes.record(child, applied_hash, found)
        return True

    async def _set_deletion_costs(self, state: ConsumerState) -> None:
        """Annotate each pod with its number of pending entries before Kubernetes chooses the pods to delete. A failure
        is only logged, because every deleted pod drains in any case."""
        pending_by_pod = state.autoscaler.pending_by_pod if state.autoscaler else {}
        namespace = state.key[0]
        for name, cost in deletion_costs(self.cache.pods(state.key), pending_by_pod).items():
            try:
                await self.kube.annotate_pod(namespace, name, {names.ANNOTATION_DELETION_COST: str(cost)})
            except Exception:
                extra = {"namespace": namespace, "pod": name}
                log.info("failed to annotate a pod with its deletion cost", exc_info=True, extra=extra)
                return

    async def _prune(self, key: Key, consumer: StreamConsumer, manifests: list[Manifest]) -> list[Change]:
        """Delete the owned children that are no longer desired, except ConfigMaps that a running pod mounts."""
        keep = {(child["kind"], child["metadata"]["name"]) for child in manifests}
        keep |= {("ConfigMap", name) for name in mounted_config_maps(self.cache.pods(key))}
        obsolete = [
            child
            for child in self.cache.owned(key, consumer.uid)
            if (child["kind"], child["metadata"]["name"]) not in keep
        ]
        for child in obsolete:
            await self.kube.delete(child)
            self.cache.remove(child)
        return [Change("Pruned", f"deleted {kind_and_name(child)}, which is no longer needed") for child in obsolete]


def kind_and_name(child: Manifest) -> str:
    """Return for example `Deployment orders-consumer`."""
    return f"{child['kind']} {child['metadata']['name']}"


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def _applied_hash(child: Manifest) -> str:
    """Return the hash of the manifest that the operator applied last, or an empty string if the annotation is
    missing."""
    return str(child["metadata"].get("annotations", {}).get(names.ANNOTATION_APPLIED, ""))


def _name_conflict(consumer: StreamConsumer, foreign: Iterable[Manifest]) -> NameConflict:
    objects = ", ".join(map(kind_and_name, foreign))
    arguments = " ".join(f"{child['kind'].lower()}/{child['metadata']['name']}" for child in foreign)
    return NameConflict(
        f"found in namespace {consumer.namespace} objects with the names of the StreamConsumer's children, without an "
        f"owner reference to this StreamConsumer: {objects}. If a restore or a deletion with --cascade=orphan has left "
        f"them behind, delete them with `kubectl delete --namespace {consumer.namespace} {arguments}`. Otherwise, give "
        "the StreamConsumer another name"
    )


def _scales_down(live: Manifest, manifest: Manifest) -> bool:
    return manifest["kind"] == "Deployment" and bool(manifest["spec"]["replicas"] < live["spec"].get("replicas", 1))


def _describe_change(autoscaler: Autoscaler | None, live: Manifest | None, manifest: Manifest) -> Change:
    """Describe the change to an applied child. If the autoscaler decided the number of pods, use the message of the
    autoscaler's decision."""
    decision = autoscaler.published if autoscaler else None
    if live is not None and decision is not None and manifest["kind"] == "Deployment":
        step = manifest["spec"]["replicas"] - live["spec"].get("replicas", 1)
        if step and manifest["spec"]["replicas"] == decision.desired_replicas:
            return Change("ScaledUp" if step > 0 else "ScaledDown", decision.message)
    child = kind_and_name(manifest)
    if live is None:
        return Change("Created", f"created {child}")
    if _applied_hash(live) == _applied_hash(manifest):
        return Change("DriftRepaired", f"reverted changes to {child}")
    return Change(UPDATED, f"updated {child}")


def _describe_override(manifest: Manifest, overridden: Differences) -> Change:
    paths = sorted(map(describe, overridden))
    listed = ", ".join(paths[:MAX_LISTED_FIELDS])
    more = f" and {len(paths) - MAX_LISTED_FIELDS} more fields" if len(paths) > MAX_LISTED_FIELDS else ""
    return Change(
        "FieldOverridden",
        f"an admission controller of the cluster changes fields that the operator applies to "
        f"{kind_and_name(manifest)}: {listed}{more}. The operator keeps the changed values",
    )
