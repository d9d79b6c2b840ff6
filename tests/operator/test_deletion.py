"""Deletion of a StreamConsumer, with real Kubernetes controllers and a real Redis."""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.redis_servers import RedisServer
from tests.model.examples import manifest
from tests.operator.namespace import CHILDREN, Namespace, eventually
from tests.operator.redis_operator import (
    check_absent,
    create_group,
    manifest_for,
    redis_client,
    running_with_redis,
    wait_for_condition,
)

COLLECTED_SECONDS = 90.0
"""A time limit for the garbage collector, which discovers a new CRD only every 30 s."""

GONE_POD = "orders-consumer-66c9f7d7b-x2x7k"


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_kubernetes_deletes_a_streamconsumer_and_its_children_without_an_operator(
    plane_namespace: Namespace, tmp_path: Path, cascade: str
) -> None:
    with running_with_redis(plane_namespace, tmp_path):
        plane_namespace.create(manifest(replicas=2, handler={"source": "def handle(data): ..."}))
        eventually(lambda: check_complete(plane_namespace))
    plane_namespace.kubectl("delete", "stc", "orders", f"--cascade={cascade}", "--wait=false")
    eventually(lambda: check_deleted(plane_namespace), COLLECTED_SECONDS)


def test_a_foreground_deletion_completes_while_the_operator_runs(plane_namespace: Namespace, tmp_path: Path) -> None:
    with running_with_redis(plane_namespace, tmp_path) as operator:
        plane_namespace.create(manifest(replicas=2, handler={"source": "def handle(data): ..."}))
        eventually(lambda: check_complete(plane_namespace))
        plane_namespace.kubectl("delete", "stc", "orders", "--cascade=foreground", "--wait=false")
        eventually(lambda: check_absent(plane_namespace, "orders"))
        assert plane_namespace.list_all("Pod") == []
        eventually(lambda: check_deleted(plane_namespace), COLLECTED_SECONDS)
        assert operator.unexpected_lines() == []


def test_deletion_keeps_the_consumer_group_and_its_pending_entries(
    plane_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    with running_with_redis(plane_namespace, tmp_path):
        create_group(redis_server)
        plane_namespace.create(manifest_for(redis_server))
        wait_for_condition(plane_namespace, "orders", "GroupReady", "GroupExists")
        for number in range(3):
            redis.xadd("orders", {"n": number})
        redis.xreadgroup("billing", GONE_POD, {"orders": ">"}, count=2)
        before = state(redis)
        plane_namespace.delete("StreamConsumer", "orders")
        eventually(lambda: check_deleted(plane_namespace), COLLECTED_SECONDS)
        eventually(lambda: check_only_client(redis))
    assert state(redis) == before
    redis.close()


def test_a_name_that_is_created_and_deleted_many_times_leaves_nothing(
    plane_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    with running_with_redis(plane_namespace, tmp_path) as operator:
        for number in range(20):
            rules = {"autoscaling": {"minReplicas": 0, "maxReplicas": 5}} if number % 2 else {"replicas": 1}
            plane_namespace.create(manifest_for(redis_server, stream=f"orders-{number % 3}", **rules))
            if number % 5 == 0:
                wait_for_condition(plane_namespace, "orders", "RedisReachable", "Connected")
            plane_namespace.delete("StreamConsumer", "orders")
        eventually(lambda: check_deleted(plane_namespace), COLLECTED_SECONDS)
        eventually(lambda: check_only_client(redis))
        assert 'resource_name="orders"' not in operator.metrics()
        assert operator.unexpected_lines() == []
    redis.close()


def state(redis: Any) -> tuple[Any, ...]:
    """Return all keys, the group and its pending entries, without their idle times."""
    group = redis.xinfo_groups("orders")
    pending = redis.xpending_range("orders", "billing", "-", "+", 10)
    owners = [(each["message_id"], each["consumer"], each["times_delivered"]) for each in pending]
    return sorted(redis.keys()), group, owners


def check_complete(namespace: Namespace) -> None:
    assert set(namespace.children("orders")) == set(CHILDREN)
    assert len(namespace.list_all("Pod")) == 2


def check_deleted(namespace: Namespace) -> None:
    check_absent(namespace, "orders")
    assert namespace.children("orders") == {}
    assert namespace.list_all("Pod") == []


def check_only_client(redis: Any) -> None:
    """Check that the operator has closed its connection."""
    assert len(redis.client_list()) == 1
