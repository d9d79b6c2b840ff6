from collections.abc import Mapping
from typing import Any

from streamconsumer.model import names
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from tests.model.examples import manifest, stored

KEY = ("shop", "orders")


def child(kind: str = "Deployment", version: int = 1, uid: str = "d-1", **fields: Any) -> Manifest:
    metadata = {
        "namespace": "shop",
        "name": "orders-consumer",
        "uid": uid,
        "resourceVersion": str(version),
        "labels": {names.LABEL_CONSUMER: "orders"},
    }
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, **fields}


def consumer(version: int = 1, uid: str = "c-1") -> Manifest:
    found = stored(manifest(), uid=uid)
    found["metadata"]["resourceVersion"] = str(version)
    return found


def test_upserted_objects_are_found() -> None:
    store = ObjectCache()
    assert store.upsert(consumer()) == store.upsert(child()) == KEY
    assert store.consumers == {KEY: consumer()}
    assert store.child(KEY, "Deployment", "orders-consumer") == child()


def test_pods_are_not_listed_as_children() -> None:
    store = ObjectCache()
    store.upsert(child())
    store.upsert(child("Pod"))
    assert [each["kind"] for each in store.children(KEY)] == ["Deployment"]
    assert [each["kind"] for each in store.pods(KEY)] == ["Pod"]


def test_an_older_version_does_not_overwrite_a_newer_one() -> None:
    """A watch may still bring what was before our own write. Versions are numbers: 9 is older than 10."""
    store = ObjectCache()
    for version in (10, 9):
        store.upsert(child(version=version))
        store.upsert(consumer(version))
    (kept,) = store.children(KEY)
    assert kept["metadata"]["resourceVersion"] == "10"
    assert store.consumers[KEY]["metadata"]["resourceVersion"] == "10"


def test_an_object_in_the_same_version_is_not_transformed_again() -> None:
    """A watch brings what our own write has returned, and every list brings everything."""
    store = ObjectCache()
    store.upsert(child(version=1))
    [known] = store.children(KEY)
    store.upsert(child(version=1))
    assert store.children(KEY)[0] is known


def test_an_object_with_a_new_uid_replaces_the_old_one_in_spite_of_a_lower_version() -> None:
    store = ObjectCache()
    store.upsert(child(version=10, uid="d-1"))
    store.upsert(child(version=2, uid="d-2"))
    assert store.children(KEY) == [child(version=2, uid="d-2")]


def test_removed_objects_are_not_found() -> None:
    store = ObjectCache()
    store.upsert(consumer())
    store.upsert(child())
    assert store.remove(child()) == store.remove(consumer()) == KEY
    assert not store.consumers
    assert store.children(KEY) == []
    assert store.child(KEY, "Deployment", "orders-consumer") is None


def test_removing_an_old_uid_keeps_the_object_with_the_new_uid() -> None:
    """The answer to our own write may come before the watch tells that its predecessor was deleted."""
    store = ObjectCache()
    store.upsert(child(uid="d-2", version=5))
    store.upsert(consumer(uid="c-2"))
    store.remove(child(uid="d-1", version=4))
    store.remove(consumer(uid="c-1"))
    assert store.children(KEY) == [child(uid="d-2", version=5)]
    assert KEY in store.consumers


def test_removing_an_unknown_object_has_no_effect() -> None:
    store = ObjectCache()
    assert store.remove(child()) == store.remove(consumer()) == KEY


def test_an_object_without_the_operators_label_has_no_key() -> None:
    stranger = child()
    del stranger["metadata"]["labels"]
    store = ObjectCache()
    assert store.upsert(stranger) is None
    assert store.remove(stranger) is None


def test_lookups_do_not_grow_the_cache() -> None:
    """A key that is only asked for must not grow the store: names come and go for months."""
    store = ObjectCache()
    store.children(KEY), store.pods(KEY), store.child(KEY, "Deployment", "x")
    store.upsert(child())
    store.remove(child())
    assert not store._owned


def believe(store: ObjectCache, before: Mapping[str, int], *found: Manifest) -> set[Key | None]:
    """Put what a list found, and drop what it lacks. Returns whom that concerns."""
    concerned = {store.upsert(manifest) for manifest in found}
    return concerned | store.remove_missing(before, {manifest["metadata"]["uid"] for manifest in found})


def test_a_list_removes_objects_that_were_deleted_without_a_watch() -> None:
    store = ObjectCache()
    store.upsert(consumer())
    store.upsert(child())
    store.upsert(child("Pod", uid="p-1"))
    assert believe(store, store.versions(), consumer(2), child()) == {KEY}
    assert store.pods(KEY) == []
    assert store.children(KEY) == [child()]
    assert store.consumers[KEY]["metadata"]["resourceVersion"] == "2"


def test_a_list_does_not_undo_changes_since_its_request() -> None:
    store = ObjectCache()
    store.upsert(child(version=1))
    before = store.versions()
    store.upsert(child(version=2))
    store.upsert(consumer())
    believe(store, before)
    assert store.children(KEY) == [child(version=2)]
    assert KEY in store.consumers


def test_a_list_returns_the_keys_of_added_and_removed_objects() -> None:
    store, gone = ObjectCache(), child()
    gone["metadata"]["labels"] = {names.LABEL_CONSUMER: "returns"}
    store.upsert(gone)
    assert believe(store, store.versions(), consumer()) == {KEY, ("shop", "returns")}


def test_an_object_that_is_deleted_during_a_list_does_not_return_with_a_later_page() -> None:
    """All pages tell of the moment when the first one was asked for."""
    store = ObjectCache()
    for each in (consumer(), child(), child("Pod", uid="p-1")):
        store.upsert(each)
    before = store.versions()
    store.remove(child(version=2))
    store.remove(child("Pod", uid="p-1", version=3))
    store.remove(consumer(4))
    believe(store, before, consumer(), child(), child("Pod", uid="p-1"))
    assert store.all_objects() == []


def test_an_object_whose_label_was_removed_and_restored_is_cached_again() -> None:
    """A watch tells of either as of a deletion and of a new object, of one uid."""
    store = ObjectCache()
    store.upsert(child(version=1))
    store.remove(child(version=2))
    store.upsert(child(version=3))
    assert store.children(KEY) == [child(version=3)]


def test_tombstones_are_dropped_after_the_next_list() -> None:
    store = ObjectCache()
    before = store.versions()
    store.remove(child())
    believe(store, before)
    assert not store._tombstones
