"""What the watch has seen last: StreamConsumers, their children, their pods. Reconciling reads here, not the API."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping

from streamconsumer.model import names
from streamconsumer.operator.cache.transform import kept
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.manifests.metadata import owned_by


class Store:
    """Filled by lists at start and by watch events and our own writes from then on."""

    def __init__(self) -> None:
        self.consumers: dict[Key, Manifest] = {}
        self._owned: defaultdict[Key, dict[tuple[str, str], Manifest]] = defaultdict(dict)
        self._gone: dict[str, int] = {}
        """In which version an object of a uid went, since the last list was believed: the pages of the next one tell of
        the moment when the first of them was asked for."""

    def put(self, manifest: Manifest) -> Key | None:
        """Remember the manifest unless it is older than what is known. Returns the StreamConsumer it concerns."""
        key = _concerns(manifest)
        if _version(manifest) <= self._gone.get(_uid(manifest), -1):
            return key
        if key and manifest["kind"] == names.KIND:
            self.consumers[key] = _newer(self.consumers.get(key), manifest)
        elif key:
            owned, identity = self._owned[key], _identity(manifest)
            owned[identity] = _newer(owned.get(identity), manifest)
        return key

    def drop(self, manifest: Manifest) -> Key | None:
        """Forget the manifest, unless another of its name has come meanwhile. Returns whom it concerned."""
        key = _concerns(manifest)
        self._gone[_uid(manifest)] = _version(manifest)
        if key and self.knows(manifest):
            if manifest["kind"] == names.KIND:
                del self.consumers[key]
            else:
                self._forget(key, _identity(manifest))
        return key

    def everything(self) -> list[Manifest]:
        """All that is remembered."""
        owned = [manifest for each in self._owned.values() for manifest in each.values()]
        return [*self.consumers.values(), *owned]

    def versions(self) -> dict[str, int]:
        """The version of each object, by its uid."""
        return {manifest["metadata"]["uid"]: _version(manifest) for manifest in self.everything()}

    def drop_missing(self, before: Mapping[str, int], there: Container[str]) -> set[Key | None]:
        """Believe a list: what was remembered in these versions `before` it was asked for, and is not among the uids
        that are `there`, is gone, unless it was heard of since. Returns whom that concerns."""
        gone = [
            manifest
            for manifest in self.everything()
            if (uid := manifest["metadata"]["uid"]) not in there and before.get(uid) == _version(manifest)
        ]
        concerned = {self.drop(manifest) for manifest in gone}
        self._gone.clear()
        return concerned

    def knows(self, manifest: Manifest) -> bool:
        """Whether this very object, in any version, is remembered."""
        key = _concerns(manifest)
        if key is None:
            return False
        is_child = manifest["kind"] != names.KIND
        known = self.child(key, *_identity(manifest)) if is_child else self.consumers.get(key)
        return known is not None and _same_life(known, manifest)

    def child(self, key: Key, kind: str, name: str) -> Manifest | None:
        """One child, or None."""
        return self._owned[key].get((kind, name)) if key in self._owned else None

    def children(self, key: Key) -> list[Manifest]:
        """Every child that is not a pod."""
        return [manifest for (kind, _), manifest in self._of(key) if kind != "Pod"]

    def owned(self, key: Key, uid: str) -> list[Manifest]:
        """The children that belong to the StreamConsumer of this uid, and do not only bear its labels."""
        return [child for child in self.children(key) if owned_by(uid, child)]

    def pods(self, key: Key) -> list[Manifest]:
        """Every pod."""
        return [manifest for (kind, _), manifest in self._of(key) if kind == "Pod"]

    def _forget(self, key: Key, identity: tuple[str, str]) -> None:
        del self._owned[key][identity]
        if not self._owned[key]:
            del self._owned[key]

    def _of(self, key: Key) -> Iterable[tuple[tuple[str, str], Manifest]]:
        return list(self._owned[key].items()) if key in self._owned else []


def _newer(known: Manifest | None, manifest: Manifest) -> Manifest:
    """A watch may still bring the state from before our own write, and brings that too; resource versions of one object
    are in order."""
    return known if known and _same_life(known, manifest) and _version(known) >= _version(manifest) else kept(manifest)


def _same_life(one: Manifest, other: Manifest) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))


def _uid(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("uid", ""))


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("resourceVersion", 0))


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _concerns(manifest: Manifest) -> Key | None:
    metadata = manifest["metadata"]
    if manifest["kind"] == names.KIND:
        return metadata["namespace"], metadata["name"]
    name = metadata.get("labels", {}).get(names.LABEL_CONSUMER)
    return (metadata["namespace"], name) if name else None
