"""What the watch has seen last: StreamConsumers, their children, their pods. Reconciling reads here, not the API."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping

from streamconsumer.model import names
from streamconsumer.operator.cache.transform import strip_unused
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.metadata import owned_by


class ObjectCache:
    """Filled by lists at start and by watch events and our own writes from then on."""

    def __init__(self) -> None:
        self.consumers: dict[Key, Manifest] = {}
        self._owned: defaultdict[Key, dict[tuple[str, str], Manifest]] = defaultdict(dict)
        self._tombstones: dict[str, int] = {}
        """In which version an object of a uid went, since the last list was believed: the pages of the next one tell of
        the moment when the first of them was asked for."""

    def upsert(self, manifest: Manifest) -> Key | None:
        """Remember the manifest unless it is older than what is known. Returns the StreamConsumer it concerns."""
        key = _key_for(manifest)
        if _version(manifest) <= self._tombstones.get(_uid(manifest), -1):
            return key
        if key and manifest["kind"] == names.KIND:
            self.consumers[key] = _latest(self.consumers.get(key), manifest)
        elif key:
            owned, identity = self._owned[key], _identity(manifest)
            owned[identity] = _latest(owned.get(identity), manifest)
        return key

    def remove(self, manifest: Manifest) -> Key | None:
        """Forget the manifest, unless another of its name has come meanwhile. Returns whom it concerned."""
        key = _key_for(manifest)
        self._tombstones[_uid(manifest)] = _version(manifest)
        if key and self.contains(manifest):
            if manifest["kind"] == names.KIND:
                del self.consumers[key]
            else:
                self._forget(key, _identity(manifest))
        return key

    def all_objects(self) -> list[Manifest]:
        """All that is remembered."""
        owned = [manifest for each in self._owned.values() for manifest in each.values()]
        return [*self.consumers.values(), *owned]

    def versions(self) -> dict[str, int]:
        """The version of each object, by its uid."""
        return {manifest["metadata"]["uid"]: _version(manifest) for manifest in self.all_objects()}

    def remove_missing(self, versions_before: Mapping[str, int], listed_uids: Container[str]) -> set[Key | None]:
        """Believe a list: what was remembered in these versions `before` it was asked for, and is not among the uids
        that are `there`, is gone, unless it was heard of since. Returns whom that concerns."""
        gone = [
            manifest
            for manifest in self.all_objects()
            if (uid := manifest["metadata"]["uid"]) not in listed_uids
            and versions_before.get(uid) == _version(manifest)
        ]
        concerned = {self.remove(manifest) for manifest in gone}
        self._tombstones.clear()
        return concerned

    def contains(self, manifest: Manifest) -> bool:
        """Whether this very object, in any version, is remembered."""
        key = _key_for(manifest)
        if key is None:
            return False
        is_child = manifest["kind"] != names.KIND
        known = self.child(key, *_identity(manifest)) if is_child else self.consumers.get(key)
        return known is not None and _same_uid(known, manifest)

    def child(self, key: Key, kind: str, name: str) -> Manifest | None:
        """One child, or None."""
        return self._owned[key].get((kind, name)) if key in self._owned else None

    def children(self, key: Key) -> list[Manifest]:
        """Every child that is not a pod."""
        return [manifest for (kind, _), manifest in self._items(key) if kind != "Pod"]

    def owned(self, key: Key, uid: str) -> list[Manifest]:
        """The children that belong to the StreamConsumer of this uid, and do not only bear its labels."""
        return [child for child in self.children(key) if owned_by(uid, child)]

    def pods(self, key: Key) -> list[Manifest]:
        """Every pod."""
        return [manifest for (kind, _), manifest in self._items(key) if kind == "Pod"]

    def _forget(self, key: Key, identity: tuple[str, str]) -> None:
        del self._owned[key][identity]
        if not self._owned[key]:
            del self._owned[key]

    def _items(self, key: Key) -> Iterable[tuple[tuple[str, str], Manifest]]:
        return list(self._owned[key].items()) if key in self._owned else []


def _latest(cached: Manifest | None, manifest: Manifest) -> Manifest:
    """A watch may still bring the state from before our own write, and brings that too; resource versions of one object
    are in order."""
    return (
        cached
        if cached and _same_uid(cached, manifest) and _version(cached) >= _version(manifest)
        else strip_unused(manifest)
    )


def _same_uid(one: Manifest, other: Manifest) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))


def _uid(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("uid", ""))


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("resourceVersion", 0))


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _key_for(manifest: Manifest) -> Key | None:
    metadata = manifest["metadata"]
    if manifest["kind"] == names.KIND:
        return metadata["namespace"], metadata["name"]
    name = metadata.get("labels", {}).get(names.LABEL_CONSUMER)
    return (metadata["namespace"], name) if name else None
