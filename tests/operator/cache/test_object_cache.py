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


def test_what_is_put_is_found_again() -> None:
    store = ObjectCache()
    assert store.upsert(consumer()) == store.upsert(child()) == KEY
    assert store.consumers == {KEY: consumer()}
    assert store.child(KEY, "Deployment", "orders-consumer") == child()


def test_pods_are_kept_apart_from_children() -> None:
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


def test_what_is_known_in_this_version_is_not_looked_through_again() -> None:
    """A watch brings what our own write has returned, and every list brings everything."""
    store = ObjectCache()
    store.upsert(child(version=1))
    [known] = store.children(KEY)
    store.upsert(child(version=1))
    assert store.children(KEY)[0] is known


def test_a_new_life_of_the_same_name_counts_whatever_its_version() -> None:
    store = ObjectCache()
    store.upsert(child(version=10, uid="d-1"))
    store.upsert(child(version=2, uid="d-2"))
    assert store.children(KEY) == [child(version=2, uid="d-2")]


def test_what_is_dropped_is_forgotten() -> None:
    store = ObjectCache()
    store.upsert(consumer())
    store.upsert(child())
    assert store.remove(child()) == store.remove(consumer()) == KEY
    assert not store.consumers
    assert store.children(KEY) == []
    assert store.child(KEY, "Deployment", "orders-consumer") is None


def test_the_end_of_an_old_life_does_not_end_the_new_one() -> None:
    """The answer to our own write may come before the watch tells that its predecessor was deleted."""
    store = ObjectCache()
    store.upsert(child(uid="d-2", version=5))
    store.upsert(consumer(uid="c-2"))
    store.remove(child(uid="d-1", version=4))
    store.remove(consumer(uid="c-1"))
    assert store.children(KEY) == [child(uid="d-2", version=5)]
    assert KEY in store.consumers


def test_dropping_what_is_unknown_is_fine() -> None:
    store = ObjectCache()
    assert store.remove(child()) == store.remove(consumer()) == KEY


def test_what_bears_no_label_of_ours_concerns_nobody() -> None:
    stranger = child()
    del stranger["metadata"]["labels"]
    store = ObjectCache()
    assert store.upsert(stranger) is None
    assert store.remove(stranger) is None


def test_asking_leaves_no_trace() -> None:
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


def test_a_list_tells_what_was_deleted_while_nobody_watched() -> None:
    store = ObjectCache()
    store.upsert(consumer())
    store.upsert(child())
    store.upsert(child("Pod", uid="p-1"))
    assert believe(store, store.versions(), consumer(2), child()) == {KEY}
    assert store.pods(KEY) == []
    assert store.children(KEY) == [child()]
    assert store.consumers[KEY]["metadata"]["resourceVersion"] == "2"


def test_a_list_does_not_undo_what_was_heard_of_since_it_was_asked_for() -> None:
    store = ObjectCache()
    store.upsert(child(version=1))
    before = store.versions()
    store.upsert(child(version=2))
    store.upsert(consumer())
    believe(store, before)
    assert store.children(KEY) == [child(version=2)]
    assert KEY in store.consumers


def test_everyone_whom_a_list_concerns_is_looked_at() -> None:
    store, gone = ObjectCache(), child()
    gone["metadata"]["labels"] = {names.LABEL_CONSUMER: "returns"}
    store.upsert(gone)
    assert believe(store, store.versions(), consumer()) == {KEY, ("shop", "returns")}


def test_what_is_deleted_while_a_list_is_read_does_not_come_back_with_a_later_page() -> None:
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


def test_who_lost_our_label_and_has_it_again_is_known_again() -> None:
    """A watch tells of either as of a deletion and of a new object, of one uid."""
    store = ObjectCache()
    store.upsert(child(version=1))
    store.remove(child(version=2))
    store.upsert(child(version=3))
    assert store.children(KEY) == [child(version=3)]


def test_what_is_gone_is_not_remembered_for_longer_than_a_list_may_tell_of_it() -> None:
    store = ObjectCache()
    before = store.versions()
    store.remove(child())
    believe(store, before)
    assert not store._tombstones
