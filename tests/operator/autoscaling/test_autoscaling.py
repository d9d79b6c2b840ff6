"""Scaling on a real API server, by what a real Redis says. No pods: what counts here is how many are asked for."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamconsumer.model import names
from streamconsumer.operator.autoscaling.pod_deletion_cost import ANNOTATION
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.operator.namespace import TIMEOUT_SECONDS, Namespace, eventually
from tests.operator.operator_process import OperatorProcess
from tests.operator.redis_operator import manifest_for, redis_client, running_with_redis, wait_for_condition

GROUP = "billing"
SCALING = {"target": {"backlogPerReplica": 10}, "maxReplicas": 7, "cooldown": "2s"}
AT_ONCE = {**SCALING, "scaleDown": {"stabilizationWindow": "0s"}}


@pytest.fixture
def operator(api_namespace: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    with running_with_redis(api_namespace, tmp_path) as operator:
        yield operator


def replicas(namespace: Namespace, expected: int, within: float = TIMEOUT_SECONDS, name: str = "orders") -> None:
    """Wait until so many pods are asked for."""

    def look() -> None:
        found = namespace.get("Deployment", f"{name}-consumer")["spec"]["replicas"]
        assert found == expected, namespace.get("StreamConsumer", name).get("status", {}).get("autoscaling")

    eventually(look, within)


def check_decided(namespace: Namespace, sentence: str, lag: int) -> None:
    """And what the stream is said to hold beside it is what it was decided by."""
    status = namespace.get("StreamConsumer", "orders")["status"]
    assert status["autoscaling"]["message"] == sentence
    assert status["stream"]["lag"] == lag


def test_pods_follow_the_backlog_from_zero_to_many_and_back(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=AT_ONCE))
    wait_for_condition(api_namespace, "orders", "ScalingActive", "NothingToDo")
    replicas(api_namespace, 0)
    together = redis.pipeline()
    for number in range(35):
        together.xadd("orders", {"n": number})
    together.execute()
    replicas(api_namespace, 4)
    eventually(
        lambda: check_decided(api_namespace, "0 → 4: backlog 35 (unread 35, pending 0), target 10 per replica", 35), 5
    )
    eventually(lambda: _measured(operator, desired_replicas=4, scaling_active=1, scaling_limited=0), 5)

    read = redis.xreadgroup(GROUP, "somebody", {"orders": ">"}, count=100)[0][1]
    redis.xack("orders", GROUP, *[message_id for message_id, _ in read[1:]])
    replicas(api_namespace, 1)
    time.sleep(4)  # more than the cooldown: one message in flight holds a pod for as long as it takes
    replicas(api_namespace, 1, within=0.1)
    redis.xack("orders", GROUP, read[0][0])
    replicas(api_namespace, 0)
    assert {"ScaledUp", "ScaledDown"} <= {reason for reason, _ in api_namespace.events("orders")}


def _measured(operator: OperatorProcess, **expected: float) -> None:
    """What Prometheus would read."""
    lines = [line.rsplit(" ", 1) for line in operator.metrics().splitlines() if "resource_name=" in line]
    found = {name.partition("{")[0].removeprefix("streamconsumer_"): float(value) for name, value in lines}
    assert expected.items() <= found.items(), found


def test_a_lag_that_redis_does_not_know_is_counted_and_lowers_nothing_while_it_cannot_be(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=AT_ONCE))
    replicas(api_namespace, 0)
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    ids = [redis.xadd("orders", {"n": number}) for number in range(30)]
    replicas(api_namespace, 3)
    redis.xreadgroup(GROUP, "somebody", {"orders": ">"}, count=5)
    redis.xdel("orders", ids[20])  # from here on XINFO GROUPS has a null for the lag
    assert redis.xinfo_groups("orders")[0]["lag"] is None
    for _ in range(20):
        redis.xadd("orders", {"n": 0})
    replicas(api_namespace, 5)


def test_whatever_was_done_to_a_stream_the_backlog_is_what_is_left(
    api_namespace: Namespace, operator: OperatorProcess, any_redis: RedisServer
) -> None:
    redis = redis_client(any_redis)
    ids = {}
    for name in ("deleted", "trimmed", "moved"):
        redis.xgroup_create(name, GROUP, "0", mkstream=True)
        ids[name] = [redis.xadd(name, {"n": number}) for number in range(40)]
        redis.xreadgroup(GROUP, "somebody", {name: ">"}, count=10)
    redis.xdel("deleted", ids["deleted"][20])
    redis.xtrim("trimmed", maxlen=15, approximate=False)
    redis.xgroup_setid("moved", GROUP, ids["moved"][29])
    finely = {**AT_ONCE, "target": {"backlogPerReplica": 5}, "maxReplicas": 20}
    for name in ids:
        api_namespace.create(manifest_for(any_redis, name, stream=name, autoscaling=finely))
    for name, unread in {"deleted": 29, "trimmed": 15, "moved": 10}.items():
        replicas(api_namespace, math.ceil((unread + 10) / 5), name=name)


def test_kubernetes_is_told_who_is_busy_before_it_takes_pods_away(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling={**AT_ONCE, "target": {"backlogPerReplica": 1}}))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    for name in ("idle", "busy"):
        api_namespace.create(_pod(name))
    for _ in range(5):
        redis.xadd("orders", {"n": 0})
    read = redis.xreadgroup(GROUP, "busy", {"orders": ">"}, count=5)[0][1]
    replicas(api_namespace, 5)
    redis.xack("orders", GROUP, *[message_id for message_id, _ in read[2:]])
    replicas(api_namespace, 2)
    assert api_namespace.get("Pod", "busy")["metadata"]["annotations"][ANNOTATION] == "2"
    assert ANNOTATION not in api_namespace.get("Pod", "idle")["metadata"].get("annotations", {})


def _looks(redis: Any) -> int:
    return int(redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"])


def _check_looks(redis: Any, at_least: int) -> None:
    assert _looks(redis) >= at_least


def _pod(name: str) -> dict[str, Any]:
    labels = {names.LABEL_CONSUMER: "orders", names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "processor", "image": "none"}], "automountServiceAccountToken": False},
    }


def test_the_first_message_at_zero_is_noticed_at_once_however_seldom_the_operator_looks(
    api_namespace: Namespace, tmp_path: Path, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    streams = ["orders", "parcels", "letters"]
    with running_with_redis(api_namespace, tmp_path, stream_interval="5m"):
        for name in streams:
            api_namespace.create(manifest_for(redis_server, name, stream=name, autoscaling=SCALING))
        for name in streams:
            replicas(api_namespace, 0, name=name)
        eventually(lambda: _waits(redis, streams), 15)
        connections = len(redis.client_list())
        assert connections <= 1 + 2, "one to look, one to wait, and this test's"
        for name in reversed(streams):
            began = time.monotonic()
            redis.xadd(name, {"n": 1})
            replicas(api_namespace, 1, name=name)
            assert time.monotonic() - began < 60
    assert redis.info("commandstats")["cmdstat_xread"]["calls"] < 20


def _waits(redis: Any, streams: list[str]) -> None:
    assert redis.info("clients")["blocked_clients"] == 1
    assert redis.info("clients").get("total_blocking_keys", len(streams)) == len(streams)


def test_redis_that_restarts_in_any_phase_lowers_nothing_and_is_heard_again(
    api_namespace: Namespace, operator: OperatorProcess, start_redis: StartRedis
) -> None:
    server = start_redis({"appendonly": "yes", "appendfsync": "always"})
    redis = redis_client(server)
    api_namespace.create(manifest_for(server, autoscaling=AT_ONCE))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    replicas(api_namespace, 0)
    server.restart()
    _add(redis, 25)
    replicas(api_namespace, 3)
    server.restart()
    replicas(api_namespace, 3, within=0.1)
    _add(redis, 20)
    replicas(api_namespace, 5)
    read = [message_id for message_id, _ in redis.xreadgroup(GROUP, "somebody", {"orders": ">"}, count=100)[0][1]]
    server.kill()
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    replicas(api_namespace, 5, within=0.1)
    server.start()
    redis.xack("orders", GROUP, *read[12:])
    replicas(api_namespace, 2)
    redis.xack("orders", GROUP, *read[:12])
    server.kill()
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    replicas(api_namespace, 2, within=0.1)
    server.start()
    replicas(api_namespace, 0)


def _add(redis: Any, count: int) -> None:
    together = redis.pipeline()
    for number in range(count):
        together.xadd("orders", {"n": number})
    together.execute()


@pytest.mark.parametrize("gone", ["group", "stream"])
def test_a_group_that_is_gone_keeps_the_pods_that_will_put_back_what_they_hold(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer, gone: str
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling={**AT_ONCE, "cooldown": "0s"}))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    _add(redis, 25)
    replicas(api_namespace, 3)
    api_namespace.create(_pod("holding"))
    api_namespace.patch("Pod", "holding", {"status": {"phase": "Running"}}, "/status")
    looks = _looks(redis)
    eventually(lambda: _check_looks(redis, looks + 2))  # by the second one, the operator knows of it
    read = redis.xreadgroup(GROUP, "holding", {"orders": ">"}, count=100)[0][1]
    redis.xack("orders", GROUP, *[message_id for message_id, _ in read[:5]])
    redis.xtrim("orders", maxlen=5, approximate=False)  # without a group there is work for one pod now
    if gone == "stream":
        redis.delete("orders")
    else:
        redis.xgroup_destroy("orders", GROUP)
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    replicas(api_namespace, 3, within=0.1)
    redis.xgroup_create("orders", GROUP, "$", mkstream=True)  # as the pod does, which held nothing in the end
    replicas(api_namespace, 0)


def test_a_suspended_one_is_not_scaled_and_goes_on_by_its_backlog(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=AT_ONCE))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    _add(redis, 25)
    replicas(api_namespace, 3)
    api_namespace.edit("orders", suspend=True)
    replicas(api_namespace, 0)
    looks = redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"]
    _add(redis, 20)
    time.sleep(3)  # several looks, if there were any
    replicas(api_namespace, 0, within=0.1)
    assert redis.info("commandstats")["cmdstat_xinfo|groups"]["calls"] <= looks + 1
    api_namespace.edit("orders", suspend=False)
    replicas(api_namespace, 5)


def test_pods_that_cannot_start_are_not_multiplied(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=AT_ONCE))
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    _add(redis, 5)
    replicas(api_namespace, 1)
    _observed(api_namespace)
    api_namespace.create(_pod("without-image"))
    waiting = {"name": "processor", "image": "none", "imageID": "", "ready": False, "restartCount": 0}
    waiting["state"] = {"waiting": {"reason": "ErrImagePull", "message": "none: not found"}}
    api_namespace.patch("Pod", "without-image", {"status": {"containerStatuses": [waiting]}}, "/status")
    wait_for_condition(api_namespace, "orders", "Stalled", "ImageUnavailable")
    _add(redis, 40)
    time.sleep(3)  # several looks
    replicas(api_namespace, 1, within=0.1)
    api_namespace.delete("Pod", "without-image")
    replicas(api_namespace, 5)


def _observed(namespace: Namespace) -> None:
    """As the Deployment's controller says it."""
    generation = namespace.get("Deployment", "orders-consumer")["metadata"]["generation"]
    status = {"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1}
    namespace.patch("Deployment", "orders-consumer", {"status": status}, "/status")


def test_redis_away_lowers_nothing(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    redis = redis_client(redis_server)
    api_namespace.create(manifest_for(redis_server, autoscaling=AT_ONCE))
    replicas(api_namespace, 0)
    wait_for_condition(api_namespace, "orders", "GroupReady", "GroupExists")
    for number in range(25):
        redis.xadd("orders", {"n": number})
    replicas(api_namespace, 3)
    redis_server.kill()
    wait_for_condition(api_namespace, "orders", "ScalingActive", "BacklogUnknown")
    replicas(api_namespace, 3, within=0.1)


def test_the_number_that_a_person_writes_counts_again_once_autoscaling_goes(
    api_namespace: Namespace, operator: OperatorProcess, redis_server: RedisServer
) -> None:
    api_namespace.create(manifest_for(redis_server, autoscaling=AT_ONCE, replicas=2))
    replicas(api_namespace, 0)
    api_namespace.edit("orders", autoscaling=None)
    replicas(api_namespace, 2)
    eventually(lambda: _without(api_namespace), 10)


def _without(namespace: Namespace) -> None:
    status = namespace.get("StreamConsumer", "orders")["status"]
    assert "autoscaling" not in status, status
