from collections.abc import Mapping
from typing import Any

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.operator.cache.namespace_budget import MAX_NAMESPACE_BYTES
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
    resource = stored(manifest(), uid=uid)
    resource["metadata"]["resourceVersion"] = str(version)
    return resource


def test_upserted_objects_are_found() -> None:
    cache = ObjectCache()
    assert cache.upsert(consumer()) == cache.upsert(child()) == KEY
    assert cache.consumers == {KEY: consumer()}
    assert cache.child(KEY, "Deployment", "orders-consumer") == child()


def test_pods_are_not_listed_as_children() -> None:
    cache = ObjectCache()
    cache.upsert(child())
    cache.upsert(child("Pod"))
    assert [each["kind"] for each in cache.children(KEY)] == ["Deployment"]
    assert [each["kind"] for each in cache.pods(KEY)] == ["Pod"]


def test_an_older_version_does_not_overwrite_a_newer_one() -> None:
    """A watch may still report the state before a write by the operator. Versions are numbers: 9 is older than 10."""
    cache = ObjectCache()
    for version in (10, 9):
        cache.upsert(child(version=version))
        cache.upsert(consumer(version))
    (kept,) = cache.children(KEY)
    assert kept["metadata"]["resourceVersion"] == "10"
    assert cache.consumers[KEY]["metadata"]["resourceVersion"] == "10"


def test_an_object_in_the_same_version_is_not_transformed_again() -> None:
    """A watch repeats the result of a write by the operator, and every list repeats all objects."""
    cache = ObjectCache()
    cache.upsert(child(version=1))
    [known] = cache.children(KEY)
    cache.upsert(child(version=1))
    assert cache.children(KEY)[0] is known


def test_an_object_with_a_new_uid_replaces_the_old_one_in_spite_of_a_lower_version() -> None:
    cache = ObjectCache()
    cache.upsert(child(version=10, uid="d-1"))
    cache.upsert(child(version=2, uid="d-2"))
    assert cache.children(KEY) == [child(version=2, uid="d-2")]


def test_removed_objects_are_not_found() -> None:
    cache = ObjectCache()
    cache.upsert(consumer())
    cache.upsert(child())
    assert cache.remove(child()) == cache.remove(consumer()) == KEY
    assert not cache.consumers
    assert cache.children(KEY) == []
    assert cache.child(KEY, "Deployment", "orders-consumer") is None


def test_removing_an_old_uid_keeps_the_object_with_the_new_uid() -> None:
    """The response to a write may arrive before the watch reports the deletion of the previous object."""
    cache = ObjectCache()
    cache.upsert(child(uid="d-2", version=5))
    cache.upsert(consumer(uid="c-2"))
    cache.remove(child(uid="d-1", version=4))
    cache.remove(consumer(uid="c-1"))
    assert cache.children(KEY) == [child(uid="d-2", version=5)]
    assert KEY in cache.consumers


def test_removing_an_unknown_object_has_no_effect() -> None:
    cache = ObjectCache()
    assert cache.remove(child()) == cache.remove(consumer()) == KEY


def test_an_object_without_the_operators_label_has_no_key() -> None:
    unlabelled = child()
    del unlabelled["metadata"]["labels"]
    cache = ObjectCache()
    assert cache.upsert(unlabelled) is None
    assert cache.remove(unlabelled) is None


def test_lookups_do_not_grow_the_cache() -> None:
    """Lookups of unknown keys must not allocate memory: names come and go for months."""
    cache = ObjectCache()
    cache.children(KEY), cache.pods(KEY), cache.child(KEY, "Deployment", "x")
    cache.upsert(child())
    cache.remove(child())
    assert not cache._owned


def apply_list(cache: ObjectCache, versions_before: Mapping[str, int], *listed: Manifest) -> set[Key | None]:
    """Update the cache from a complete list. Returns the keys of added, changed and removed objects."""
    keys = {cache.upsert(manifest) for manifest in listed}
    return keys | cache.remove_missing(versions_before, {manifest["metadata"]["uid"] for manifest in listed})


def test_a_list_removes_objects_that_were_deleted_without_a_watch() -> None:
    cache = ObjectCache()
    cache.upsert(consumer())
    cache.upsert(child())
    cache.upsert(child("Pod", uid="p-1"))
    assert apply_list(cache, cache.versions(), consumer(2), child()) == {KEY}
    assert cache.pods(KEY) == []
    assert cache.children(KEY) == [child()]
    assert cache.consumers[KEY]["metadata"]["resourceVersion"] == "2"


def test_a_list_does_not_undo_changes_since_its_request() -> None:
    cache = ObjectCache()
    cache.upsert(child(version=1))
    before = cache.versions()
    cache.upsert(child(version=2))
    cache.upsert(consumer())
    apply_list(cache, before)
    assert cache.children(KEY) == [child(version=2)]
    assert KEY in cache.consumers


def test_a_list_returns_the_keys_of_added_and_removed_objects() -> None:
    cache, gone = ObjectCache(), child()
    gone["metadata"]["labels"] = {names.LABEL_CONSUMER: "returns"}
    cache.upsert(gone)
    assert apply_list(cache, cache.versions(), consumer()) == {KEY, ("shop", "returns")}


def test_an_object_that_is_deleted_during_a_list_does_not_return_with_a_later_page() -> None:
    """All pages of a list show the time of the request for the first page."""
    cache = ObjectCache()
    for each in (consumer(), child(), child("Pod", uid="p-1")):
        cache.upsert(each)
    before = cache.versions()
    cache.remove(child(version=2))
    cache.remove(child("Pod", uid="p-1", version=3))
    cache.remove(consumer(4))
    apply_list(cache, before, consumer(), child(), child("Pod", uid="p-1"))
    assert cache.all_objects() == []


def test_an_object_whose_label_was_removed_and_restored_is_cached_again() -> None:
    """A watch with a label selector reports these changes as a deletion and a creation of one uid."""
    cache = ObjectCache()
    cache.upsert(child(version=1))
    cache.remove(child(version=2))
    cache.upsert(child(version=3))
    assert cache.children(KEY) == [child(version=3)]


def test_tombstones_are_dropped_after_the_next_list() -> None:
    cache = ObjectCache()
    before = cache.versions()
    cache.remove(child())
    apply_list(cache, before)
    assert not cache._tombstones


def large(number: int, namespace: str = "shop", size: int = 1_000_000) -> Manifest:
    resource = stored(
        manifest(f"large-{number}", namespace, env=[{"name": "A", "value": "x" * size}]), uid=f"u-{number}"
    )
    resource["metadata"]["resourceVersion"] = "1"
    return resource


def is_served(cache: ObjectCache, resource: Manifest) -> bool:
    try:
        cache.check_budget((resource["metadata"]["namespace"], resource["metadata"]["name"]))
    except InvalidResource:
        return False
    return True


def test_specs_of_one_namespace_above_the_budget_are_not_stored() -> None:
    cache = ObjectCache()
    resources = [large(number) for number in range(40)]
    for resource in resources:
        cache.upsert(resource)
    served = [is_served(cache, resource) for resource in resources]
    assert served == [True] * 16 + [False] * 24
    assert sum(len(str(each["spec"])) for each in cache.consumers.values()) < MAX_NAMESPACE_BYTES
    assert len(cache.consumers) == 40, "each StreamConsumer gets a status"
    cache.upsert(large(0, "other"))
    assert is_served(cache, large(0, "other")), "the budget of another namespace is not affected"


def test_refused_spec_is_stored_after_others_were_deleted_and_the_spec_was_received_again() -> None:
    cache = ObjectCache()
    resources = [large(number) for number in range(17)]
    for resource in resources:
        cache.upsert(resource)
    assert not is_served(cache, resources[16])
    cache.remove(resources[0])
    cache.upsert(resources[16])
    assert is_served(cache, resources[16])
    assert cache.consumers["shop", "large-16"]["spec"] == resources[16]["spec"]


def test_thousands_of_ordinary_specs_are_within_the_budget() -> None:
    cache = ObjectCache()
    resources = [large(number, size=1000) for number in range(2500)]
    for resource in resources:
        cache.upsert(resource)
    assert all(is_served(cache, resource) for resource in resources)


def test_updates_of_one_spec_use_the_budget_once() -> None:
    cache = ObjectCache()
    for version in range(1, 50):
        resource = large(1)
        resource["metadata"]["resourceVersion"] = str(version)
        cache.upsert(resource)
        assert is_served(cache, resource)


def test_annotations_count() -> None:
    cache = ObjectCache()
    resources = [large(number, size=1) for number in range(100)]
    for resource in resources:
        resource["metadata"]["annotations"] = {"notes": "x" * 250_000}
        cache.upsert(resource)
    assert 60 <= sum(is_served(cache, resource) for resource in resources) <= 66
    assert sum("annotations" in each["metadata"] for each in cache.consumers.values()) <= 66
