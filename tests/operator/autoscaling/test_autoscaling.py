"""Autoscaling with a real API server and a real Redis server. The tests check the requested replicas; no pods run."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model import names
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.operator.namespace import TIMEOUT_SECONDS, Namespace, eventually
from tests.operator.operator_process import OperatorProcess
from tests.operator.redis_operator import (
    create_group,
    manifest_for,
    redis_client,
    running_with_redis,
    wait_for_condition,
)

GROUP = "billing"
SCALING = {"target": {"backlogPerReplica": 10}, "maxReplicas": 7, "cooldown": "2s"}
IMMEDIATE = {**SCALING, "scaleDown": {"stabilizationWindow": "0s"}}


@pytest.fixture
def operator(api_namespace: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    with running_with_redis(api_namespace, tmp_path) as operator:
        yield operator


def wait_for_replicas(
    namespace: Namespace, expected: int, within: float = TIMEOUT_SECONDS, name: str = "orders"
) -> None:
    """Wait until the Deployment requests this number of pods."""

    def check() -> None:
        replicas = namespace.get("Deployment", f"{name}-consumer")["spec"]["replicas"]
        assert replicas == expected, namespace.get("StreamConsumer", name).get("status", {}).get("autoscaling")

    eventually(check, within)


def check_decision(namespace: Namespace, message: str, lag: int) -> None:
    """Check that the status shows the decision with the lag that it is based on."""
    status = namespace.get("StreamConsumer", "orders")["status"]
    assert status["autoscaling"]["message"] == message
    assert status["stream"]["lag"] == lag


def test_pods_follow_the_backlog_from_zero_to_many_and_back(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=IMMEDIATE))
    wait_for_condition(api_namespace, "orders", "ScalingActive", "NothingToDo")
    wait_for_replicas(api_namespace, 0)
    _add(redis, 35)
    wait_for_replicas(api_namespace, 4)
    eventually(
        lambda: check_decision(api_namespace, "0 → 4: backlog 35 (unread 35, pending 0), target 10 per replica", 35), 5
    )
    eventually(lambda: _check_metrics(operator, desired_replicas=4, scaling_active=1, scaling_limited=0), 5)

    read = redis.xreadgroup(GROUP, "another", {"orders": ">"}, count=100)[0][1]
    redis.xack("orders", GROUP, *[message_id for message_id, _ in read[1:]])
    wait_for_replicas(api_namespace, 1)
    time.sleep(4)  # more than the cooldown: a message in flight keeps its pod
    wait_for_replicas(api_namespace, 1, within=0.1)
    redis.xack("orders", GROUP, read[0][0])
    wait_for_replicas(api_namespace, 0)
    assert {"ScaledUp", "ScaledDown"} <= {reason for reason, _ in api_namespace.events("orders")}


def _check_metrics(operator: OperatorProcess, **expected: float) -> None:
    lines = [line.rsplit(" ", 1) for line in operator.metrics().splitlines() if "resource_name=" in line]
    values = {name.partition("{")[0].removeprefix("streamconsumer_"): float(value) for name, value in lines}
    assert expected.items() <= values.items(), values


def test_unknown_lag_is_counted_and_never_scales_down(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=IMMEDIATE))
    wait_for_replicas(api_namespace, 0)
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    ids = [redis.xadd("orders", {"n": number}) for number in range(30)]
    wait_for_replicas(api_namespace, 3)
    redis.xreadgroup(GROUP, "another", {"orders": ">"}, count=5)
    redis.xdel("orders", ids[20])  # from here on XINFO GROUPS reports a null lag
    assert redis.xinfo_groups("orders")[0]["lag"] is None
    for _ in range(20):
        redis.xadd("orders", {"n": 0})
    wait_for_replicas(api_namespace, 5)


def test_backlog_is_correct_after_xdel_xtrim_and_xgroup_setid(
    api_namespace: Namespace, operator: OperatorProcess, any_redis: RedisServer
) -> None:
    redis = redis_client(any_redis)
    ids = {}
    for name in ("deleted", "trimmed", "moved"):
        redis.xgroup_create(name, GROUP, "0", mkstream=True)
        ids[name] = [redis.xadd(name, {"n": number}) for number in range(40)]
        redis.xreadgroup(GROUP, "another", {name: ">"}, count=10)
    redis.xdel("deleted", ids["deleted"][20])
    redis.xtrim("trimmed", maxlen=15, approximate=False)
    redis.xgroup_setid("moved", GROUP, ids["moved"][29])
    scaling = {**IMMEDIATE, "target": {"backlogPerReplica": 5}, "maxReplicas": 20}
    for name in ids:
        api_namespace.create(manifest_for(any_redis, name, stream=name, autoscaling=scaling))
    for name, unread in {"deleted": 29, "trimmed": 15, "moved": 10}.items():
        wait_for_replicas(api_namespace, math.ceil((unread + 10) / 5), name=name)


def test_busy_pods_have_a_deletion_cost_before_the_replicas_decrease(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling={**IMMEDIATE, "target": {"backlogPerReplica": 1}}))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    for name in ("idle", "busy"):
        api_namespace.create(_pod(name))
    for _ in range(5):
        redis.xadd("orders", {"n": 0})
    read = redis.xreadgroup(GROUP, "busy", {"orders": ">"}, count=5)[0][1]
    wait_for_replicas(api_namespace, 5)
    redis.xack("orders", GROUP, *[message_id for message_id, _ in read[2:]])
    wait_for_replicas(api_namespace, 2)
    assert api_namespace.get("Pod", "busy")["metadata"]["annotations"][names.ANNOTATION_DELETION_COST] == "2"
    assert names.ANNOTATION_DELETION_COST not in api_namespace.get("Pod", "idle")["metadata"].get("annotations", {})


def _polls(redis: Any) -> int:
    return int(redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"])


def _check_polls(redis: Any, at_least: int) -> None:
    assert _polls(redis) >= at_least


def _pod(name: str) -> dict[str, Any]:
    labels = {names.LABEL_CONSUMER: "orders", names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "processor", "image": "none"}], "automountServiceAccountToken": False},
    }


def test_first_message_at_zero_starts_a_pod_despite_a_long_poll_interval(
    api_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    streams = ["orders", "parcels", "letters"]
    with running_with_redis(api_namespace, tmp_path, stream_interval="5m"):
        for name in streams:
            api_namespace.create(manifest_for(redis_server, name, stream=name, autoscaling=SCALING))
        for name in streams:
            wait_for_replicas(api_namespace, 0, name=name)
        eventually(lambda: _check_blocked_client(redis, streams), 15)
        connections = len(redis.client_list())
        assert connections <= 1 + 2, "one for polls, one blocked, and that of this test"
        for name in reversed(streams):
            started = time.monotonic()
            redis.xadd(name, {"n": 1})
            wait_for_replicas(api_namespace, 1, name=name)
            assert time.monotonic() - started < 60
    assert redis.info("commandstats")["cmdstat_xread"]["calls"] < 20


def _check_blocked_client(redis: Any, streams: list[str]) -> None:
    assert redis.info("clients")["blocked_clients"] == 1
    assert redis.info("clients").get("total_blocking_keys", len(streams)) == len(streams)


def test_restart_of_redis_never_scales_down_and_polls_resume(
    api_namespace: Namespace, operator: OperatorProcess, start_redis: StartRedis
) -> None:
    server = start_redis({"appendonly": "yes", "appendfsync": "always"})
    redis = redis_client(server)
    create_group(server)
    api_namespace.create(manifest_for(server, autoscaling=IMMEDIATE))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    wait_for_replicas(api_namespace, 0)
    server.restart()
    _add(redis, 25)
    wait_for_replicas(api_namespace, 3)
    server.restart()
    wait_for_replicas(api_namespace, 3, within=0.1)
    _add(redis, 20)
    wait_for_replicas(api_namespace, 5)
    read = [message_id for message_id, _ in redis.xreadgroup(GROUP, "another", {"orders": ">"}, count=100)[0][1]]
    server.kill()
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    wait_for_replicas(api_namespace, 5, within=0.1)
    server.start()
    redis.xack("orders", GROUP, *read[12:])
    wait_for_replicas(api_namespace, 2)
    redis.xack("orders", GROUP, *read[:12])
    server.kill()
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    wait_for_replicas(api_namespace, 2, within=0.1)
    server.start()
    wait_for_replicas(api_namespace, 0)


@pytest.mark.parametrize(("start_from", "pods"), [("0", 3), ("$", 1), ("0-1", 1)])
def test_entries_of_a_stream_without_a_group_start_the_pods_that_create_it(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer, start_from: str, pods: int
) -> None:
    """The number of unread entries is known only if the group begins at the first entry."""
    redis = redis_client(redis_server)
    _add(redis, 25)
    api_namespace.create(manifest_for(redis_server, startFrom=start_from, autoscaling=IMMEDIATE))
    wait_for_replicas(api_namespace, pods)
    redis.xgroup_create("orders", GROUP, "$")
    wait_for_replicas(api_namespace, 0)


def test_one_pod_creates_a_group_that_begins_at_the_end_of_the_stream(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    """Without this pod, entries that are added before the first pod would be skipped."""
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, startFrom="$", autoscaling={**IMMEDIATE, "cooldown": "0s"}))
    wait_for_replicas(api_namespace, 1)
    redis.xgroup_create("orders", GROUP, "$", mkstream=True)
    wait_for_replicas(api_namespace, 0)
    _add(redis, 25)
    wait_for_replicas(api_namespace, 3)


def test_group_that_is_lost_at_zero_pods_is_restored_by_one_pod(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    _add(redis, 25)
    read = redis.xreadgroup(GROUP, "another", {"orders": ">"}, count=100)[0][1]
    redis.xack("orders", GROUP, *[message_id for message_id, _ in read])
    api_namespace.create(manifest_for(redis_server, autoscaling=IMMEDIATE))
    wait_for_condition(api_namespace, "orders", "ScalingActive", "NothingToDo")
    wait_for_replicas(api_namespace, 0)
    redis.xgroup_destroy("orders", GROUP)
    wait_for_replicas(api_namespace, 1)
    redis.xgroup_create("orders", GROUP, read[-1][0])
    wait_for_replicas(api_namespace, 0)


def _scale_to_three(namespace: Namespace, server: RedisServer, **rules: Any) -> Any:
    """Create a StreamConsumer and 25 unread entries, which need three pods. Returns the client of the server."""
    redis = redis_client(server)
    create_group(server)
    namespace.create(manifest_for(server, autoscaling={**IMMEDIATE, **rules}))
    wait_for_condition(namespace, "orders", "GroupReady", "GroupExists")
    _add(redis, 25)
    wait_for_replicas(namespace, 3)
    return redis


def _add(redis: Any, count: int) -> None:
    pipeline = redis.pipeline()
    for number in range(count):
        pipeline.xadd("orders", {"n": number})
    pipeline.execute()


@pytest.mark.parametrize("deleted", ["group", "stream"])
def test_deleted_group_keeps_the_pods_that_will_restore_it(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer, deleted: str
) -> None:
    redis = _scale_to_three(api_namespace, redis_server, cooldown="0s")
    api_namespace.create(_pod("owner"))
    api_namespace.patch("Pod", "owner", {"status": {"phase": "Running"}}, "/status")
    polls = _polls(redis)
    eventually(lambda: _check_polls(redis, polls + 2))  # at the second poll, the operator has seen the pod
    read = redis.xreadgroup(GROUP, "owner", {"orders": ">"}, count=100)[0][1]
    redis.xack("orders", GROUP, *[message_id for message_id, _ in read[:5]])
    redis.xtrim("orders", maxlen=5, approximate=False)  # without a group there is work for one pod now
    if deleted == "stream":
        redis.delete("orders")
    else:
        redis.xgroup_destroy("orders", GROUP)
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    wait_for_replicas(api_namespace, 3, within=0.1)
    redis.xgroup_create("orders", GROUP, "$", mkstream=True)  # as the pod does; no entries are pending now
    wait_for_replicas(api_namespace, 0)


def test_suspended_consumer_is_not_scaled_until_it_resumes(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = _scale_to_three(api_namespace, redis_server)
    api_namespace.edit("orders", suspend=True)
    wait_for_replicas(api_namespace, 0)
    polls = _polls(redis)
    _add(redis, 20)
    time.sleep(3)  # several poll intervals
    wait_for_replicas(api_namespace, 0, within=0.1)
    assert _polls(redis) <= polls + 1
    api_namespace.edit("orders", suspend=False)
    wait_for_replicas(api_namespace, 5)


def test_pods_that_cannot_start_are_not_scaled_up(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=IMMEDIATE))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    _add(redis, 5)
    wait_for_replicas(api_namespace, 1)
    _report_observed_generation(api_namespace)
    api_namespace.create(_pod("without-image"))
    waiting = {"name": "processor", "image": "none", "imageID": "", "ready": False, "restartCount": 0}
    waiting["state"] = {"waiting": {"reason": "ErrImagePull", "message": "none: not found"}}
    api_namespace.patch("Pod", "without-image", {"status": {"containerStatuses": [waiting]}}, "/status")
    wait_for_condition(api_namespace, "orders", "Stalled", "ImageUnavailable")
    _add(redis, 40)
    time.sleep(3)  # several poll intervals
    wait_for_replicas(api_namespace, 1, within=0.1)
    api_namespace.delete("Pod", "without-image")
    wait_for_replicas(api_namespace, 5)


def _report_observed_generation(namespace: Namespace) -> None:
    """Write the Deployment's status as its controller does."""
    generation = namespace.get("Deployment", "orders-consumer")["metadata"]["generation"]
    status = {"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1}
    namespace.patch("Deployment", "orders-consumer", {"status": status}, "/status")


def test_outage_of_redis_never_scales_down(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=IMMEDIATE))
    wait_for_replicas(api_namespace, 0)
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    for number in range(25):
        redis.xadd("orders", {"n": number})
    wait_for_replicas(api_namespace, 3)
    redis_server.kill()
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    wait_for_replicas(api_namespace, 3, within=0.1)


def test_spec_replicas_apply_again_when_autoscaling_is_removed(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    create_group(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=IMMEDIATE, replicas=2))
    wait_for_replicas(api_namespace, 0)
    api_namespace.edit("orders", autoscaling=None)
    wait_for_replicas(api_namespace, 2)
    eventually(lambda: _check_no_autoscaling(api_namespace), 10)


def _check_no_autoscaling(namespace: Namespace) -> None:
    status = namespace.get("StreamConsumer", "orders")["status"]
    assert "autoscaling" not in status, status
