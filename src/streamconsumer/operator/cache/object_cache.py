"""The cache of StreamConsumers, of their children (objects that the operator applies) and of their pods.

The reconciler reads objects from this cache instead of from the API server.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.operator.cache.namespace_budget import MAX_OBJECT_BYTES, NamespaceBudget, size_of
from streamconsumer.operator.cache.transform import as_mapping, reduce, strip_unused
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.metadata import owned_by

ObjectId = tuple[str, str]
"""The kind and the name of an object."""

MAX_CONSUMERS = 2500
"""Maximum number of StreamConsumers in a namespace. Each StreamConsumer needs about 20 kB of memory, even if the cache
stores only a few fields of the StreamConsumer and of its children."""

TOO_MANY = (
    f"the namespace has more than {MAX_CONSUMERS} StreamConsumers, the maximum that the operator serves; delete "
    "StreamConsumers, or move them to another namespace"
)


class ObjectCache:
    """The latest known version of each object. Lists, watch events and the operator's own writes update the cache."""

    def __init__(self, on_admitted: Callable[[Key], None]) -> None:
        """If a namespace has more than MAX_CONSUMERS StreamConsumers, the cache refuses the excess. When the cache
        later admits a refused StreamConsumer, the cache calls `on_admitted` with its key."""
        self.consumers: dict[Key, Manifest] = {}
        self._on_admitted = on_admitted
        self._admitted: defaultdict[str, set[str]] = defaultdict(set)
        """Names of the StreamConsumers that the operator serves, by namespace. Each set has at most MAX_CONSUMERS
        names."""
        self._budget = NamespaceBudget()
        self._reduced: defaultdict[Key, dict[ObjectId, bool]] = defaultdict(dict)
        """The objects that the cache stores only in part. The value is True if the object exceeds MAX_OBJECT_BYTES."""
        self._owned: defaultdict[Key, dict[ObjectId, Manifest]] = defaultdict(dict)
        self._keys: dict[str, Key] = {}
        """Maps the uid of each child and pod to the key under which the object is stored. The key depends on a label,
        which users may change."""
        self._tombstones: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """The uid and the resourceVersion of each object that was deleted since the last list began, by namespace. All
        pages of a list show the state at the time of the first page, so a later page may contain an object that was
        deleted after the first page."""

    def upsert(self, manifest: Manifest, versions_before: Mapping[str, int] | None = None) -> Key | None:
        """Store the manifest if its resourceVersion is newer than the cached resourceVersion. Returns the key of the
        StreamConsumer to which the object belongs.

        `versions_before` is the result of `begin_list` if the manifest belongs to a list. A list is newer than an
        object that has not changed since the list began, even if its resourceVersion is lower. Restoring etcd from a
        backup resets the resourceVersions to earlier numbers."""
        key = _key_for(manifest)
        if key and _version(manifest) > self._tombstones.get(key[0], {}).get(_uid(manifest), -1):
            self._upsert(key, manifest, versions_before or {})
        return key

    def _upsert(self, key: Key, manifest: Manifest, versions_before: Mapping[str, int]) -> None:
        object_id, uid = _object_id(manifest), _uid(manifest)
        if (previous_key := self._keys.get(uid, key)) != key:
            self._forget(previous_key, object_id)
        cached, is_reduced = self._get(key, object_id), object_id in self._reduced.get(key, ())
        if cached and not _replaces(manifest, cached, is_reduced, versions_before):
            return
        if cached:
            self._budget.release(_uid(cached))
        latest = strip_unused(manifest)
        size = size_of(latest, MAX_OBJECT_BYTES)
        if self._is_admitted(key, manifest) and self._budget.try_reserve(uid, key[0], size):
            self._unmark_reduced(key, object_id)
        else:
            self._reduced[key][object_id] = size > MAX_OBJECT_BYTES
            latest = reduce(latest)
        if manifest["kind"] == names.KIND:
            self.consumers[key] = latest
        else:
            self._owned[key][object_id], self._keys[uid] = latest, key

    def _is_admitted(self, key: Key, manifest: Manifest) -> bool:
        """Return True for a child, a pod, and a StreamConsumer that the operator serves. Each namespace has room for
        MAX_CONSUMERS StreamConsumers."""
        if manifest["kind"] != names.KIND:
            return True
        namespace, name = key
        admitted = self._admitted[namespace]
        if len(admitted) < MAX_CONSUMERS:
            admitted.add(name)
        return name in admitted

    def check_admitted(self, key: Key) -> None:
        """Raise InvalidResource if the namespace has too many StreamConsumers to serve this StreamConsumer."""
        if key[1] not in self._admitted.get(key[0], ()):
            raise InvalidResource(TOO_MANY)

    def is_reduced(self, manifest: Manifest) -> bool:
        """Return True if the cache stores only a few fields of the object, so that a reconcile must read the whole
        object from the API server."""
        key = _key_for(manifest)
        return key is not None and _object_id(manifest) in self._reduced.get(key, ())

    def is_large(self, key: Key) -> bool:
        """Return True if a reconcile must read an object of more than MAX_OBJECT_BYTES from the API server. Pods are
        not counted, because a reconcile reads pods only from the cache."""
        return any(large for (kind, _), large in self._reduced.get(key, {}).items() if kind != "Pod")

    def remove(self, manifest: Manifest) -> Key | None:
        """Remove the object, but not a newer object that has the same name. Returns the key of the StreamConsumer to
        which the object belongs."""
        key = _key_for(manifest)
        self._tombstones[manifest["metadata"]["namespace"]][_uid(manifest)] = _version(manifest)
        if key and self.contains(manifest):
            self._forget(key, _object_id(manifest))
        return key

    def _forget(self, key: Key, object_id: ObjectId) -> None:
        if object_id[0] == names.KIND:
            removed = self.consumers.pop(key)
            self._dismiss(key)
        else:
            removed = self._owned[key].pop(object_id)
            del self._keys[_uid(removed)]
            if not self._owned[key]:
                del self._owned[key]
        self._budget.release(_uid(removed))
        self._unmark_reduced(key, object_id)

    def _unmark_reduced(self, key: Key, object_id: ObjectId) -> None:
        if key in self._reduced:
            self._reduced[key].pop(object_id, None)
            if not self._reduced[key]:
                del self._reduced[key]

    def _dismiss(self, key: Key) -> None:
        """Stop counting a deleted StreamConsumer, and admit a StreamConsumer that was refused."""
        namespace, name = key
        admitted = self._admitted[namespace]
        was_full = len(admitted) >= MAX_CONSUMERS
        admitted.discard(name)
        waiting = (each for each in self.consumers if each[0] == namespace and each[1] not in admitted)
        if was_full and len(admitted) < MAX_CONSUMERS and (refused := next(waiting, None)):
            admitted.add(refused[1])
            self._on_admitted(refused)
        if not admitted:
            del self._admitted[namespace]

    def all_objects(self) -> list[Manifest]:
        """Return all cached objects."""
        owned = [manifest for each in self._owned.values() for manifest in each.values()]
        return [*self.consumers.values(), *owned]

    def begin_list(self, namespace: str | None = None) -> dict[str, int]:
        """Prepare the cache for a complete list of a namespace, or of all namespaces if `namespace` is None. Returns
        the resourceVersion of every cached object of the namespace, by uid.

        Call this method before the list request. Deletions from before the request do not apply to the list, because a
        list shows at least the state at the time of its request."""
        if namespace is None:
            self._tombstones.clear()
        else:
            self._tombstones.pop(namespace, None)
        return {
            manifest["metadata"]["uid"]: _version(manifest)
            for manifest in self.all_objects()
            if namespace in (None, manifest["metadata"]["namespace"])
        }

    def remove_missing(self, versions_before: Mapping[str, int], listed_uids: Container[str]) -> set[Key | None]:
        """Remove the cached objects that are missing from a complete list.

        `versions_before` is the result of `begin_list`. If an object has changed since, the object is not removed.
        Returns the keys of the StreamConsumers whose objects were removed."""
        missing = [
            manifest
            for manifest in self.all_objects()
            if (uid := manifest["metadata"]["uid"]) not in listed_uids
            and versions_before.get(uid) == _version(manifest)
        ]
        return {self.remove(manifest) for manifest in missing}

    def contains(self, manifest: Manifest) -> bool:
        """Return True if the cache contains an object with the manifest's uid, even if the resourceVersion differs."""
        key = _key_for(manifest)
        if key is None:
            return False
        cached = self._get(key, _object_id(manifest))
        return cached is not None and _same_uid(cached, manifest)

    def _get(self, key: Key, object_id: ObjectId) -> Manifest | None:
        return self.consumers.get(key) if object_id[0] == names.KIND else self.child(key, *object_id)

    def child(self, key: Key, kind: str, name: str) -> Manifest | None:
        """Return the child with this kind and name, or None if the cache has no such child."""
        return self._owned[key].get((kind, name)) if key in self._owned else None

    def children(self, key: Key) -> list[Manifest]:
        """Return all children of the StreamConsumer. Pods are not included."""
        return [manifest for (kind, _), manifest in self._items(key) if kind != "Pod"]

    def owned(self, key: Key, uid: str) -> list[Manifest]:
        """Return the children that have an owner reference with this uid. Children that have only matching
        labels are not returned."""
        return [child for child in self.children(key) if owned_by(uid, child)]

    def pods(self, key: Key) -> list[Manifest]:
        """Return the pods of the StreamConsumer that have not ended. Kubernetes may keep the object of an ended pod for
        a long time."""
        pods = (manifest for (kind, _), manifest in self._items(key) if kind == "Pod")
        return [pod for pod in pods if as_mapping(pod.get("status")).get("phase") not in names.ENDED_POD_PHASES]

    def _items(self, key: Key) -> Iterable[tuple[ObjectId, Manifest]]:
        return list(self._owned[key].items()) if key in self._owned else []


def _replaces(manifest: Manifest, cached: Manifest, is_reduced: bool, versions_before: Mapping[str, int]) -> bool:
    """Return True if the manifest has a higher resourceVersion than the cached object, or another uid. Each write of an
    object increases its resourceVersion. After the operator has written an object, a watch may still report the
    object's state before the write. If the cached object is stored only in part, a manifest with the same
    resourceVersion replaces the object too.

    A manifest of a list also replaces an object that has not changed since the list began."""
    if not _same_uid(cached, manifest):
        return True
    if _version(manifest) == _version(cached):
        return is_reduced
    return _version(manifest) > _version(cached) or versions_before.get(_uid(cached)) == _version(cached)


def _same_uid(one: Manifest, other: Manifest) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))


def _uid(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("uid", ""))


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("resourceVersion", 0))


def _object_id(manifest: Manifest) -> ObjectId:
    return manifest["kind"], manifest["metadata"]["name"]


def _key_for(manifest: Manifest) -> Key | None:
    metadata = manifest["metadata"]
    if manifest["kind"] == names.KIND:
        return metadata["namespace"], metadata["name"]
    name = metadata.get("labels", {}).get(names.LABEL_CONSUMER)
    return (metadata["namespace"], name) if name else None
