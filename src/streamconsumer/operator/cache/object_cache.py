"""The cache of StreamConsumers, of their children (objects that the operator applies) and of their pods.

The reconciler reads objects from this cache instead of from the API server.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.operator.cache.namespace_budget import OVER_BUDGET, NamespaceBudget
from streamconsumer.operator.cache.transform import strip_unused
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.metadata import owned_by

ChildId = tuple[str, str]
"""The kind and the name of a child or pod."""


class ObjectCache:
    """The latest known version of each object. Lists, watch events and the operator's own writes update the cache."""

    def __init__(self) -> None:
        self.consumers: dict[Key, Manifest] = {}
        self._over_budget: set[Key] = set()
        """StreamConsumers whose spec is not stored, because the spec exceeds the memory budget of the namespace."""
        self._budget = NamespaceBudget()
        self._owned: defaultdict[Key, dict[ChildId, Manifest]] = defaultdict(dict)
        self._tombstones: dict[str, int] = {}
        """The uid and the resourceVersion of each object that was deleted since the last list. All pages of a list show
        the state at the time of the first page, so a later page may contain an object that was deleted after the first
        page."""

    def upsert(self, manifest: Manifest) -> Key | None:
        """Store the manifest if its resourceVersion is newer than the cached resourceVersion. Returns the key of the
        StreamConsumer to which the object belongs."""
        key = _key_for(manifest)
        if _version(manifest) <= self._tombstones.get(_uid(manifest), -1):
            return key
        if key and manifest["kind"] == names.KIND:
            self._upsert_consumer(key, manifest)
        elif key:
            owned, child_id = self._owned[key], _child_id(manifest)
            owned[child_id] = _latest(owned.get(child_id), manifest)
        return key

    def _upsert_consumer(self, key: Key, manifest: Manifest) -> None:
        cached = self.consumers.get(key)
        latest = _latest(None if key in self._over_budget else cached, manifest)
        if latest is cached:
            return
        if self._budget.try_reserve(key, latest):
            self._over_budget.discard(key)
        else:
            self._over_budget.add(key)
            latest = self._budget.without_spec(latest)
        self.consumers[key] = latest

    def check_budget(self, key: Key) -> None:
        """Raise InvalidResource if the spec of the StreamConsumer is not stored."""
        if key in self._over_budget:
            raise InvalidResource(OVER_BUDGET)

    def remove(self, manifest: Manifest) -> Key | None:
        """Remove the object, but not a newer object that has the same name. Returns the key of the StreamConsumer to
        which the object belongs."""
        key = _key_for(manifest)
        self._tombstones[_uid(manifest)] = _version(manifest)
        if key and self.contains(manifest):
            if manifest["kind"] == names.KIND:
                del self.consumers[key]
                self._over_budget.discard(key)
                self._budget.release(key)
            else:
                self._forget(key, _child_id(manifest))
        return key

    def all_objects(self) -> list[Manifest]:
        """Return all cached objects."""
        owned = [manifest for each in self._owned.values() for manifest in each.values()]
        return [*self.consumers.values(), *owned]

    def versions(self) -> dict[str, int]:
        """Return the resourceVersion of every cached object, by uid."""
        return {manifest["metadata"]["uid"]: _version(manifest) for manifest in self.all_objects()}

    def remove_missing(self, versions_before: Mapping[str, int], listed_uids: Container[str]) -> set[Key | None]:
        """Remove the cached objects that are missing from a complete list.

        `versions_before` is the result of `versions()` before the list request. If an object has changed since that
        call of `versions()`, the object is not removed. Returns the keys of the StreamConsumers whose objects were
        removed."""
        missing = [
            manifest
            for manifest in self.all_objects()
            if (uid := manifest["metadata"]["uid"]) not in listed_uids
            and versions_before.get(uid) == _version(manifest)
        ]
        keys = {self.remove(manifest) for manifest in missing}
        self._tombstones.clear()
        return keys

    def contains(self, manifest: Manifest) -> bool:
        """Return True if the cache contains an object with the manifest's uid, even if the resourceVersion differs."""
        key = _key_for(manifest)
        if key is None:
            return False
        is_child = manifest["kind"] != names.KIND
        cached = self.child(key, *_child_id(manifest)) if is_child else self.consumers.get(key)
        return cached is not None and _same_uid(cached, manifest)

    def child(self, key: Key, kind: str, name: str) -> Manifest | None:
        """Return the child with this kind and name, or None if the cache has no such child."""
        return self._owned[key].get((kind, name)) if key in self._owned else None

    def children(self, key: Key) -> list[Manifest]:
        """Return all children of the StreamConsumer. Pods are not included."""
        return [manifest for (kind, _), manifest in self._items(key) if kind != "Pod"]

    def owned(self, key: Key, uid: str) -> list[Manifest]:
        """Return the children that have an owner reference with this uid. Children that have matching labels but no
        such owner reference are not returned."""
        return [child for child in self.children(key) if owned_by(uid, child)]

    def pods(self, key: Key) -> list[Manifest]:
        """Return all pods of the StreamConsumer."""
        return [manifest for (kind, _), manifest in self._items(key) if kind == "Pod"]

    def _forget(self, key: Key, child_id: ChildId) -> None:
        del self._owned[key][child_id]
        if not self._owned[key]:
            del self._owned[key]

    def _items(self, key: Key) -> Iterable[tuple[ChildId, Manifest]]:
        return list(self._owned[key].items()) if key in self._owned else []


def _latest(cached: Manifest | None, manifest: Manifest) -> Manifest:
    """Return the manifest with the higher resourceVersion. After the operator has written an object, a watch may still
    report the state before the write. Each write increases the object's resourceVersion."""
    if cached and _same_uid(cached, manifest) and _version(cached) >= _version(manifest):
        return cached
    return strip_unused(manifest)


def _same_uid(one: Manifest, other: Manifest) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))


def _uid(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("uid", ""))


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("resourceVersion", 0))


def _child_id(manifest: Manifest) -> ChildId:
    return manifest["kind"], manifest["metadata"]["name"]


def _key_for(manifest: Manifest) -> Key | None:
    metadata = manifest["metadata"]
    if manifest["kind"] == names.KIND:
        return metadata["namespace"], metadata["name"]
    name = metadata.get("labels", {}).get(names.LABEL_CONSUMER)
    return (metadata["namespace"], name) if name else None
