import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.status import Effective
from streamconsumer.operator.cache import namespace_budget, object_cache
from streamconsumer.operator.cache.namespace_budget import (
    GUARANTEED_BYTES,
    MAX_NAMESPACE_BYTES,
    MAX_TOTAL_BYTES,
    size_of,
)
from streamconsumer.operator.cache.object_cache import ObjectCache
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.reconcile.readiness import effective, mounted_config_maps
from tests.model.examples import manifest, stored

KEY = ("shop", "orders")


def ignore(key: Key) -> None:
    """Ignore a StreamConsumer that was refused before and is now admitted."""


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
    cache = ObjectCache(ignore)
    assert cache.upsert(consumer()) == cache.upsert(child()) == KEY
    assert cache.consumers == {KEY: consumer()}
    assert cache.child(KEY, "Deployment", "orders-consumer") == child()


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_pods_that_have_ended_are_not_listed(phase: str) -> None:
    """An evicted pod keeps its object until a person or the garbage collector deletes it."""
    cache = ObjectCache(ignore)
    cache.upsert(child("Pod", status={"phase": phase, "reason": "Evicted"}))
    assert cache.pods(KEY) == []
    cache.upsert(child("Pod", version=2, status={"phase": "Running"}))
    assert len(cache.pods(KEY)) == 1


def test_pods_are_not_listed_as_children() -> None:
    cache = ObjectCache(ignore)
    cache.upsert(child())
    cache.upsert(child("Pod"))
    assert [each["kind"] for each in cache.children(KEY)] == ["Deployment"]
    assert [each["kind"] for each in cache.pods(KEY)] == ["Pod"]


def test_an_older_version_does_not_overwrite_a_newer_one() -> None:
    """A watch may still report the state before a write by the operator. Versions are numbers: 9 is older than 10."""
    cache = ObjectCache(ignore)
    for version in (10, 9):
        cache.upsert(child(version=version))
        cache.upsert(consumer(version))
    (kept,) = cache.children(KEY)
    assert kept["metadata"]["resourceVersion"] == "10"
    assert cache.consumers[KEY]["metadata"]["resourceVersion"] == "10"


def test_an_object_in_the_same_version_is_not_transformed_again() -> None:
    """A watch repeats the result of a write by the operator, and every list repeats all objects."""
    cache = ObjectCache(ignore)
    cache.upsert(child(version=1))
    [known] = cache.children(KEY)
    cache.upsert(child(version=1))
    assert cache.children(KEY)[0] is known


def test_an_object_with_a_new_uid_replaces_the_old_one_in_spite_of_a_lower_version() -> None:
    cache = ObjectCache(ignore)
    cache.upsert(child(version=10, uid="d-1"))
    cache.upsert(child(version=2, uid="d-2"))
    assert cache.children(KEY) == [child(version=2, uid="d-2")]


def test_removed_objects_are_not_found() -> None:
    cache = ObjectCache(ignore)
    cache.upsert(consumer())
    cache.upsert(child())
    assert cache.remove(child()) == cache.remove(consumer()) == KEY
    assert not cache.consumers
    assert cache.children(KEY) == []
    assert cache.child(KEY, "Deployment", "orders-consumer") is None


def test_removing_an_old_uid_keeps_the_object_with_the_new_uid() -> None:
    """The response to a write may arrive before the watch reports the deletion of the previous object."""
    cache = ObjectCache(ignore)
    cache.upsert(child(uid="d-2", version=5))
    cache.upsert(consumer(uid="c-2"))
    cache.remove(child(uid="d-1", version=4))
    cache.remove(consumer(uid="c-1"))
    assert cache.children(KEY) == [child(uid="d-2", version=5)]
    assert KEY in cache.consumers


def test_removing_an_unknown_object_has_no_effect() -> None:
    cache = ObjectCache(ignore)
    assert cache.remove(child()) == cache.remove(consumer()) == KEY


def test_an_object_without_the_operators_label_has_no_key() -> None:
    unlabelled = child()
    del unlabelled["metadata"]["labels"]
    cache = ObjectCache(ignore)
    assert cache.upsert(unlabelled) is None
    assert cache.remove(unlabelled) is None


def test_lookups_do_not_grow_the_cache() -> None:
    """Lookups of unknown keys must not allocate memory: names come and go for months."""
    cache = ObjectCache(ignore)
    cache.children(KEY), cache.pods(KEY), cache.child(KEY, "Deployment", "x")
    cache.upsert(child())
    cache.remove(child())
    assert not cache._owned


def apply_list(cache: ObjectCache, versions_before: Mapping[str, int], *listed: Manifest) -> set[Key | None]:
    """Update the cache from a complete list. Returns the keys of added, changed and removed objects."""
    keys = {cache.upsert(manifest, versions_before) for manifest in listed}
    return keys | cache.remove_missing(versions_before, {manifest["metadata"]["uid"] for manifest in listed})


def test_a_list_removes_objects_that_were_deleted_without_a_watch() -> None:
    cache = ObjectCache(ignore)
    cache.upsert(consumer())
    cache.upsert(child())
    cache.upsert(child("Pod", uid="p-1"))
    assert apply_list(cache, cache.begin_list(), consumer(2), child()) == {KEY}
    assert cache.pods(KEY) == []
    assert cache.children(KEY) == [child()]
    assert cache.consumers[KEY]["metadata"]["resourceVersion"] == "2"


def test_a_list_does_not_undo_changes_since_its_request() -> None:
    cache = ObjectCache(ignore)
    cache.upsert(child(version=1))
    before = cache.begin_list()
    cache.upsert(child(version=2))
    cache.upsert(consumer())
    apply_list(cache, before)
    assert cache.children(KEY) == [child(version=2)]
    assert KEY in cache.consumers


def test_a_list_returns_the_keys_of_added_and_removed_objects() -> None:
    cache, gone = ObjectCache(ignore), child()
    gone["metadata"]["labels"] = {names.LABEL_CONSUMER: "returns"}
    cache.upsert(gone)
    assert apply_list(cache, cache.begin_list(), consumer()) == {KEY, ("shop", "returns")}


def test_an_object_that_is_deleted_during_a_list_does_not_return_with_a_later_page() -> None:
    """All pages of a list show the time of the request for the first page."""
    cache = ObjectCache(ignore)
    for each in (consumer(), child(), child("Pod", uid="p-1")):
        cache.upsert(each)
    before = cache.begin_list()
    cache.remove(child(version=2))
    cache.remove(child("Pod", uid="p-1", version=3))
    cache.remove(consumer(4))
    apply_list(cache, before, consumer(), child(), child("Pod", uid="p-1"))
    assert cache.all_objects() == []


def test_an_object_whose_label_was_removed_and_restored_is_cached_again() -> None:
    """A watch with a label selector reports these changes as a deletion and a creation of one uid."""
    cache = ObjectCache(ignore)
    cache.upsert(child(version=1))
    cache.remove(child(version=2))
    cache.upsert(child(version=3))
    assert cache.children(KEY) == [child(version=3)]


def test_tombstones_are_dropped_when_the_next_list_begins() -> None:
    cache = ObjectCache(ignore)
    cache.remove(child())
    cache.begin_list("other")
    assert cache._tombstones
    cache.begin_list("shop")
    assert not cache._tombstones


def test_a_list_replaces_objects_after_a_restored_backup_of_etcd() -> None:
    """A restored etcd continues with the resource versions of its backup."""
    cache = ObjectCache(ignore)
    for each in (consumer(90), child(version=91, spec={"replicas": 5}), child("Pod", uid="p-1", version=92)):
        cache.upsert(each)
    apply_list(cache, cache.begin_list("shop"), consumer(40), child(version=41, spec={"replicas": 2}))
    assert cache.consumers[KEY]["metadata"]["resourceVersion"] == "40"
    assert cache.child(KEY, "Deployment", "orders-consumer") == child(version=41, spec={"replicas": 2})
    assert cache.pods(KEY) == []


def test_an_object_that_a_restored_backup_brings_back_is_cached() -> None:
    cache = ObjectCache(ignore)
    cache.upsert(consumer(90))
    cache.remove(consumer(91))
    apply_list(cache, cache.begin_list("shop"), consumer(40))
    assert cache.consumers[KEY]["metadata"]["resourceVersion"] == "40"


def test_a_list_does_not_replace_an_object_that_was_written_after_the_list_began() -> None:
    cache = ObjectCache(ignore)
    cache.upsert(child(version=1))
    before = cache.begin_list("shop")
    cache.upsert(child(version=3))
    apply_list(cache, before, child(version=2))
    assert cache.children(KEY) == [child(version=3)]


def test_a_list_of_one_namespace_does_not_change_other_namespaces() -> None:
    cache, other = ObjectCache(ignore), stored(manifest("orders", "warehouse"), uid="c-2")
    cache.upsert(consumer())
    cache.upsert(other)
    before = cache.begin_list("shop")
    cache.remove(other)
    assert apply_list(cache, before) == {KEY}
    cache.upsert(other)
    assert ("warehouse", "orders") not in cache.consumers


def large(number: int, namespace: str = "shop", size: int = 1_000_000) -> Manifest:
    resource = stored(
        manifest(f"large-{number}", namespace, env=[{"name": "A", "value": "x" * size}]), uid=f"{namespace}-{number}"
    )
    resource["metadata"]["resourceVersion"] = "1"
    return resource


def memory(cache: ObjectCache) -> int:
    return size_of(cache.all_objects(), sys.maxsize)


@pytest.mark.parametrize(
    "fields",
    [
        {"spec": {"env": [{"name": "A", "value": "x" * 1_000_000}]}},
        {"spec": {"env": [{"name": "A", "value": "x" * 300_000 + "\U0001f600"}]}},
        {"spec": {"env": [{"name": f"V{number}"} for number in range(40_000)]}},
        {"spec": {"stream": "x" * 1_000_000}},
        {"spec": {"consumerGroup": [[]] * 100_000}},
        {"spec": ["x" * 1_000_000]},
        {"status": {"conditions": [{"type": "Ready", "message": "x" * 1_000_000}]}},
        {"status": ["x" * 1_000_000]},
    ],
)
def test_a_large_streamconsumer_is_stored_only_in_part(fields: dict[str, Any]) -> None:
    cache = ObjectCache(ignore)
    cache.upsert({**consumer(), **fields})
    assert cache.is_reduced(consumer())
    assert cache.is_large(KEY)
    assert memory(cache) < 20_000


def test_an_ordinary_streamconsumer_beyond_the_budget_is_not_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, the operator would reconcile ordinary StreamConsumers one at a time."""
    monkeypatch.setattr(namespace_budget, "MAX_NAMESPACE_BYTES", 1)
    cache = ObjectCache(ignore)
    cache.upsert(consumer())
    assert cache.is_reduced(consumer())
    assert not cache.is_large(KEY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("annotations", {"note": "x" * 300_000}),
        ("annotations", {f"note-{number}": "" for number in range(10_000)}),
        ("labels", {names.LABEL_CONSUMER: "orders"} | {f"label-{number}": "" for number in range(10_000)}),
        ("ownerReferences", [{"kind": names.KIND, "uid": f"u-{number}", "name": "x"} for number in range(5_000)]),
        ("finalizers", ["x" * 300_000]),
    ],
)
@pytest.mark.parametrize("kind", ["Deployment", "ConfigMap"])
def test_large_metadata_is_not_stored(kind: str, field: str, value: Any) -> None:
    cache, resource = ObjectCache(ignore), child(kind, spec={"template": {"spec": {"containers": []}}})
    resource["metadata"][field] = value
    assert cache.upsert(resource) == KEY
    assert cache.is_reduced(resource)
    assert memory(cache) < 20_000


def test_a_reduced_deployment_keeps_the_values_that_the_status_shows() -> None:
    endpoint = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}
    container = {"name": "consumer", "image": "shop:1.4", "env": [endpoint, {"name": "A", "value": "x" * 300_000}]}
    spec = {"replicas": 3, "template": {"spec": {"containers": [container]}}}
    cache = ObjectCache(ignore)
    cache.upsert(child(spec=spec, status={"replicas": 2}))
    [deployment] = cache.children(KEY)
    assert (deployment["spec"]["replicas"], deployment["status"]["replicas"]) == (3, 2)
    assert effective(deployment) == Effective(image="shop:1.4", telemetry_endpoint="http://collector:4318")


def large_pod() -> Manifest:
    """Return a running pod whose labels make it too large for the cache."""
    source = {"name": "source", "configMap": {"name": "orders-consumer-1"}}
    others = [{"name": f"v{number}", "configMap": {"name": f"c-{number}"}} for number in range(2000)]
    pod = child("Pod", uid="p-1", spec={"volumes": [*others, source]}, status={"phase": "Running"})
    pod["metadata"]["labels"] |= {f"label-{number}": "" for number in range(10_000)}
    return pod


def test_a_reduced_pod_keeps_the_config_map_with_its_source() -> None:
    """Without this name, the operator would delete the ConfigMap, and a restarted container would not start."""
    cache = ObjectCache(ignore)
    cache.upsert(large_pod())
    assert cache.is_reduced(large_pod())
    assert mounted_config_maps(cache.pods(KEY)) == {"orders-consumer-1"}
    assert memory(cache) < 20_000


def test_a_reduced_pod_makes_no_streamconsumer_large() -> None:
    """A reconcile reads no pod from the API server, and therefore needs no turn."""
    cache = ObjectCache(ignore)
    cache.upsert(large_pod())
    assert not cache.is_large(KEY)


def test_the_objects_of_one_namespace_use_limited_memory() -> None:
    cache = ObjectCache(ignore)
    for number in range(400):
        cache.upsert(large(number, size=200_000))
    assert memory(cache) < MAX_NAMESPACE_BYTES + 400 * 10_000
    assert len(cache.consumers) == 400
    cache.upsert(large(0, "other", size=200_000))
    assert not cache.is_reduced(large(0, "other"))


def test_each_namespace_can_use_some_memory_after_others_have_used_all() -> None:
    cache = ObjectCache(ignore)
    for namespace in ("one", "two"):
        for number in range(400):
            cache.upsert(large(number, namespace, size=200_000))
    assert memory(cache) < MAX_TOTAL_BYTES + 800 * 10_000
    for number in range(500):
        cache.upsert(large(number, "victim", size=1000))
    stored_completely = sum(not cache.is_reduced(large(number, "victim")) for number in range(500))
    assert stored_completely * 3000 > GUARANTEED_BYTES / 2


def test_a_reduced_object_is_stored_completely_when_its_memory_fits() -> None:
    cache = ObjectCache(ignore)
    resources = [large(number, size=200_000) for number in range(400)]
    for resource in resources:
        cache.upsert(resource)
    assert cache.is_reduced(resources[-1])
    cache.remove(resources[0])
    cache.upsert(resources[-1])
    assert cache.consumers["shop", "large-399"] == resources[-1]


def test_an_older_version_does_not_overwrite_a_reduced_object() -> None:
    cache, resource = ObjectCache(ignore), large(0)
    resource["metadata"]["resourceVersion"] = "10"
    cache.upsert(resource)
    cache.upsert(large(0, size=10))
    assert cache.consumers["shop", "large-0"]["metadata"]["resourceVersion"] == "10"


def test_removed_objects_release_all_memory() -> None:
    cache = ObjectCache(ignore)
    for resource in (large(0), large(1, size=1000), child(), child("ConfigMap", uid="m-1", data={"a": "x" * 300_000})):
        cache.upsert(resource)
        resource["metadata"]["resourceVersion"] = "2"
        cache.upsert(resource)
        cache.remove(resource)
    assert not any((cache._reduced, cache._admitted, cache._keys, cache._owned, cache._budget._totals))


def test_a_child_whose_label_was_changed_is_stored_once() -> None:
    """A user could otherwise use up the memory by changing the label of one object again and again."""
    cache = ObjectCache(ignore)
    for version in range(1, 10):
        moved = child(version=version)
        moved["metadata"]["labels"] = {names.LABEL_CONSUMER: f"orders-{version}"}
        cache.upsert(moved)
    assert [each["metadata"]["resourceVersion"] for each in cache.all_objects()] == ["9"]


def admits(cache: ObjectCache, key: Key) -> bool:
    try:
        cache.check_admitted(key)
    except InvalidResource:
        return False
    return True


def overfull_cache(monkeypatch: pytest.MonkeyPatch, on_admitted: Callable[[Key], None]) -> ObjectCache:
    """Return a cache with five StreamConsumers in a namespace, of which three are admitted."""
    monkeypatch.setattr(object_cache, "MAX_CONSUMERS", 3)
    cache = ObjectCache(on_admitted)
    for number in range(5):
        cache.upsert(large(number, size=10))
        cache.upsert(large(number, size=10))
    return cache


def test_a_namespace_has_a_maximum_number_of_streamconsumers(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = overfull_cache(monkeypatch, ignore)
    assert [admits(cache, ("shop", f"large-{number}")) for number in range(5)] == [True] * 3 + [False] * 2
    cache.upsert(large(0, "other", size=10))
    assert admits(cache, ("other", "large-0"))


def test_a_refused_streamconsumer_is_admitted_after_another_one_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    admitted = list[Key]()
    cache = overfull_cache(monkeypatch, admitted.append)
    cache.remove(large(4))
    assert admitted == []
    cache.remove(large(1))
    assert admitted == [("shop", "large-3")]
    assert admits(cache, ("shop", "large-3"))
    cache.remove(large(0))
    assert admitted == [("shop", "large-3")]
