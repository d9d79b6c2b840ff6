"""What becomes of a group whose StreamConsumer goes: a real API server and a real Redis."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconsumer.model import names
from streamconsumer.server.keys import companion
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest
from tests.operator.looking import OFTEN, at, check_gone, client, looking, secret, seen
from tests.operator.operators import OperatorProcess, running
from tests.operator.places import Place, eventually
from tests.operator.test_operator_alone import restricted


@pytest.fixture
def operator(on_api: Place, tmp_path: Path) -> Iterator[OperatorProcess]:
    with looking(on_api, tmp_path) as operator:
        yield operator


def test_a_group_that_is_to_go_is_destroyed_and_what_is_its_own_with_it(
    on_api: Place, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = client(redis_server)
    on_api.create(at(redis_server, groupDeletionPolicy="Delete"))
    on_api.create(at(redis_server, "kept", stream="kept"))
    for name in ("orders", "kept"):
        seen(on_api, name, "GroupReady", "GroupExists")
    letters, consumers = (companion("orders", "billing", what) for what in ("dead-letters", "consumers"))
    redis.xadd(letters, {"n": 1})
    redis.hset(consumers, "a", 1)
    eventually(lambda: check_held(on_api, held=True))
    for name in ("orders", "kept"):
        on_api.delete("StreamConsumer", name)
    eventually(lambda: check_gone(on_api, "orders", "kept"))
    assert on_api.find("Deployment", "orders-consumer") is None
    assert (redis.xinfo_groups("orders"), len(redis.xinfo_groups("kept"))) == ([], 1)
    assert redis.exists("orders", letters, consumers) == 2
    assert "GroupDestroyed" in dict(on_api.events("orders"))
    redis.close()


def check_held(place: Place, *, held: bool) -> None:
    finalizers = place.get("StreamConsumer", "orders")["metadata"].get("finalizers", [])
    assert (names.FINALIZER in finalizers) == held


def test_a_group_goes_only_after_the_pods(on_api: Place, operator: OperatorProcess, redis_server: RedisServer) -> None:
    redis = client(redis_server)
    on_api.create(at(redis_server, groupDeletionPolicy="Delete"))
    seen(on_api, "orders", "GroupReady", "GroupExists")
    template = eventually(lambda: on_api.get("Deployment", "orders-consumer"))["spec"]["template"]
    metadata = {"name": "orders-consumer-66c9f7d7b-x2x7k", "labels": template["metadata"]["labels"]}
    on_api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    on_api.delete("StreamConsumer", "orders")
    eventually(lambda: check_undeployed(on_api))
    time.sleep(3)
    assert len(redis.xinfo_groups("orders")) == 1
    on_api.cluster.kubectl(
        *("delete", "pod", metadata["name"], "-n", on_api.namespace, "--grace-period=0", "--force", "--wait=false")
    )
    eventually(lambda: check_gone(on_api, "orders"))
    assert redis.xinfo_groups("orders") == []
    redis.close()


def check_undeployed(place: Place) -> None:
    assert place.find("Deployment", "orders-consumer") is None


def test_the_rights_that_are_installed_are_enough_for_that_too(
    on_api: Place, tmp_path: Path, start_redis: StartRedis
) -> None:
    server = start_redis({"requirepass": "pw"})
    secret(on_api, "redis", password="pw")
    ref = {"name": "redis", "key": "password"}
    kubeconfig = restricted(on_api, tmp_path, clusterwide=False)
    with running(kubeconfig, tmp_path, watch_namespaces=on_api.namespace, stream_interval=OFTEN) as operator:
        on_api.create(at(server, password=ref, groupDeletionPolicy="Delete"))
        seen(on_api, "orders", "GroupReady", "GroupExists")
        eventually(lambda: check_held(on_api, held=True))
        on_api.delete("StreamConsumer", "orders")
        eventually(lambda: check_gone(on_api, "orders"))
    assert "GroupDestroyed" in dict(on_api.events("orders"))
    assert operator.noise() == []


def test_a_policy_that_changes_its_mind_leaves_nothing_behind(
    on_api: Place, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    on_api.create(at(redis_server, groupDeletionPolicy="Delete"))
    eventually(lambda: check_held(on_api, held=True))
    on_api.edit("orders", groupDeletionPolicy="Retain")
    eventually(lambda: check_held(on_api, held=False))


def test_a_group_by_which_somebody_else_reads_stays(
    on_api: Place, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = client(redis_server)
    for name in ("orders", "renamed"):
        on_api.create(at(redis_server, name, groupDeletionPolicy="Delete"))
        seen(on_api, name, "GroupReady", "GroupExists")
    eventually(lambda: check_held(on_api, held=True))
    on_api.delete("StreamConsumer", "orders")
    eventually(lambda: check_gone(on_api, "orders"))
    assert "renamed" in dict(on_api.events("orders"))["GroupKept"]
    assert len(redis.xinfo_groups("orders")) == 1
    redis.close()


def test_a_namespace_goes_in_its_bound_though_redis_is_gone(on_plane: Place, tmp_path: Path) -> None:
    on_plane.create(manifest(redis={"url": "redis://127.0.0.1:1"}, groupDeletionPolicy="Delete"))
    with looking(on_plane, tmp_path, deletion_bound="6s"):
        eventually(lambda: check_held(on_plane, held=True))
        began = time.monotonic()
        on_plane.cluster.kubectl("delete", "namespace", on_plane.namespace, "--wait=false")
        eventually(lambda: check_gone(on_plane, "orders"))
        assert time.monotonic() - began > 4
