"""An operator with few file descriptors and more Redis endpoints than that."""

import shlex
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.api_server import ApiServer
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.redis_servers import StartRedis
from tests.model.examples import manifest
from tests.operator.namespace import Namespace, eventually
from tests.operator.operator_process import OperatorProcess

OPEN_FILES = 160
NAMESPACES, ENDPOINTS = 2, 50
SCALING = {"minReplicas": 0, "cooldown": "0s"}
"""Each StreamConsumer without pods uses two connections to Redis: one for polls, and one that waits for entries."""


class FewFiles(OperatorProcess):
    command = ("sh", "-c", f"ulimit -n {OPEN_FILES}; exec {shlex.join(OperatorProcess.command)}")


@pytest.mark.timeout(400)
def test_redis_connections_leave_file_descriptors_for_the_api_server(
    api: ApiServer, start_redis: StartRedis, tmp_path: Path
) -> None:
    server = start_redis({"databases": str(NAMESPACES * ENDPOINTS)})
    with ExitStack() as stack:
        namespaces = [Namespace(api, stack.enter_context(fresh_namespace(api))) for _ in range(NAMESPACES)]
        watched = ",".join(namespace.name for namespace in namespaces)
        operator = FewFiles(api.kubeconfig, tmp_path, watch_namespaces=watched, stream_interval="1s")
        stack.callback(operator.kill)
        operator.start().wait_until_started()
        for number in range(NAMESPACES * ENDPOINTS):
            redis = {"url": f"redis://{server.host}:{server.port}/{number}"}
            resource = manifest(f"orders-{number}", redis=redis, autoscaling=SCALING)
            namespaces[number % NAMESPACES].create(resource)
        for namespace in namespaces:
            eventually(partial(check_connected, namespace), 240, 1)
        namespaces[0].edit("orders-0", autoscaling={**SCALING, "minReplicas": 2})
        eventually(lambda: check_scaled(namespaces[0]))
        assert "Too many open files" not in operator.log.read_text()
        assert operator.unexpected_lines() == []


def check_connected(namespace: Namespace) -> None:
    resources = namespace.list_all("StreamConsumer")
    conditions = [each.get("status", {}).get("conditions", []) for each in resources]
    reasons = [item["reason"] for each in conditions for item in each if item["type"] == "RedisReachable"]
    assert reasons == ["Connected"] * ENDPOINTS


def check_scaled(namespace: Namespace) -> None:
    assert namespace.get("Deployment", "orders-0-consumer")["spec"]["replicas"] == 2
