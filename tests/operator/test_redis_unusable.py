"""A running pod whose Redis password is wrong, with a real operator and a real Redis and without a kubelet."""

from base64 import b64encode
from pathlib import Path

from tests.cluster.redis_servers import StartRedis
from tests.operator.namespace import Namespace
from tests.operator.redis_operator import create_secret, manifest_for, running_with_redis, wait_for_condition
from tests.operator.test_conditions import container, pod, report


def test_a_pod_that_redis_rejects_is_reported_until_the_secret_is_fixed(
    api_namespace: Namespace, start_redis: StartRedis, tmp_path: Path
) -> None:
    with running_with_redis(api_namespace, tmp_path):
        server = start_redis({"requirepass": "right"})
        create_secret(api_namespace, "redis", password="not-this-one")
        api_namespace.create(manifest_for(server, password={"name": "redis", "key": "password"}))
        wait_for_condition(api_namespace, "orders", "RedisReachable", "CredentialsRefused")
        report(api_namespace, "orders", 1, 0)
        running = {"running": {"startedAt": "2026-11-24T12:00:00Z"}}
        status = {"phase": "Running", "containerStatuses": [{**container(running)[0], "started": True}]}
        name = pod(api_namespace, "orders", **status)
        message = wait_for_condition(api_namespace, "orders", "Ready", "RedisUnusable")["message"]
        assert f"Pod {name} is running but not ready: " in message
        assert "the user name or the password is wrong" in message
        assert "not-this-one" not in message
        assert api_namespace.conditions("orders")["Stalled"]["status"] == "False"
        path = f"/api/v1/namespaces/{api_namespace.name}/secrets/redis"
        api_namespace.cluster.request("PATCH", path, {"data": {"password": b64encode(b"right").decode()}})
        wait_for_condition(api_namespace, "orders", "RedisReachable", "Connected")
        wait_for_condition(api_namespace, "orders", "Ready", "PodsStarting")
