"""Scaling from zero to many pods and back. STREAMCONSUMER_TEST_SCALE=whole uses the sizes of docs/scaling.md."""

import json
import os
import statistics
import time
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster.node import Node
from tests.e2e.shop import CHART, NAMESPACE, SYSTEM, Shop, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

WHOLE = os.environ.get("STREAMCONSUMER_TEST_SCALE") == "whole"
WAKEUPS = 10 if WHOLE else 3
LONG_SECONDS = 40 if WHOLE else 12
MESSAGES, MAX_PODS = (50_000, 8) if WHOLE else (4_000, 4)

WOKEN = "woken by the operator"
SCALED_CONSUMER = "the same consumer, scaled by hand"
SCALED_WORKER = "a redis-py worker, scaled by hand"

STREAMCONSUMERS = f"streamconsumer.dev/v1alpha1/namespaces/{NAMESPACE}/streamconsumers"
DEPLOYMENTS = f"apps/v1/namespaces/{NAMESPACE}/deployments"

IMAGE = "streamconsumer-processor:0.1.0"
SCALING = {"cooldown": "1s", "scaleDown": {"stabilizationWindow": "1s"}}

REPORT_TIME = """
import os, redis
server = redis.Redis.from_url(os.environ["STREAMCONSUMER_REDIS_URL"])

def handle(data):
    seconds, micros = server.time()
    server.lpush(data["key"], f"{seconds}.{micros:06}")
"""
"""Source of a handler that reports the server's time. The worker without StreamConsumer uses it as well."""

WORKER = (
    REPORT_TIME
    + """
while True:
    for _, entries in server.xreadgroup("g", "bare", {"bare": ">"}, count=10, block=5000) or []:
        for message_id, data in entries:
            handle({"key": data[b"key"]})
            server.xack("bare", "g", message_id)
"""
)

LEDGER = """
import asyncio, os
from redis.asyncio import Redis
from streamconsumer.processor import current_message
server = Redis.from_url(os.environ["STREAMCONSUMER_REDIS_URL"])

async def handle(data):
    message_id = current_message().message_id
    await server.hincrby(data["ledger"] + ":started", message_id, 1)
    await asyncio.sleep(float(data["seconds"]))
    await server.hincrby(data["ledger"] + ":done", message_id, 1)
"""

ADD_MANY = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'ledger', KEYS[1], 'seconds', ARGV[2]) end"


@pytest.fixture(autouse=True, scope="module")
def _operator(shop: Shop) -> None:
    """Install the chart before the first test."""
    shop.cluster.helm(
        *("upgrade", "--install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace"),
        *("--wait", "--timeout", "90s"),
    )


@pytest.fixture(autouse=True)
def _describe_on_failure(shop: Shop, request: pytest.FixtureRequest) -> Iterator[None]:
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        print(shop.kubectl("describe", "stc"))
    names = [resource["metadata"]["name"] for resource in shop.get("stc")["items"]]
    for name in names:
        if name.startswith("scaled-"):
            shop.kubectl("delete", "stc", name)


def _consumer(name: str, source: str, **spec: object) -> str:
    manifest = {
        "apiVersion": "streamconsumer.dev/v1alpha1",
        "kind": "StreamConsumer",
        "metadata": {"name": name},
        "spec": {
            "redis": {"url": "redis://redis:6379/0"},
            "stream": name,
            "consumerGroup": "g",
            "handler": {"source": source},
            **spec,
        },
    }
    return yaml.safe_dump(manifest)


def _is_at_zero(shop: Shop, name: str) -> bool:
    """Return whether the operator reports zero desired replicas and no pod is left, terminating or not."""
    status = shop.consumer(name).get("status", {})
    return status.get("desiredReplicas") == 0 and not shop.all_pods(name)


def test_first_message_at_zero_is_handled_soon(shop: Shop, node: Node) -> None:
    shop.apply(_consumer("scaled-wake", REPORT_TIME, autoscaling=SCALING))
    shop.apply(_consumer("scaled-hand", REPORT_TIME))
    shop.apply(_bare_deployment())
    shop.redis("XGROUP", "CREATE", "bare", "g", "0", "MKSTREAM")
    eventually("the group exists", lambda: shop.group("scaled-hand"))
    _scale_by_hand(node, STREAMCONSUMERS, "scaled-hand", 0)
    delays: dict[str, list[float]] = {WOKEN: [], SCALED_CONSUMER: [], SCALED_WORKER: []}
    for number in range(WAKEUPS):
        eventually("no pod is left", lambda: _is_at_zero(shop, "scaled-wake") and not shop.all_pods("scaled-hand"))
        added = _add(shop, "scaled-wake", f"woken-{number}")
        delays[WOKEN].append(_handled_at(shop, f"woken-{number}") - added)
        scaled = ((SCALED_CONSUMER, STREAMCONSUMERS, "scaled-hand"), (SCALED_WORKER, DEPLOYMENTS, "bare"))
        for label, resource, name in scaled:
            _add(shop, name, f"{name}-{number}")
            begin = time.time()
            _scale_by_hand(node, resource, name, 1)
            delays[label].append(_handled_at(shop, f"{name}-{number}") - begin)
            _scale_by_hand(node, resource, name, 0)
    shop.kubectl("delete", "deployment", "bare")
    for label, seconds in delays.items():
        print(
            f"\nfirst message at zero, {label}: median {statistics.median(seconds):.2f} s, maximum {max(seconds):.2f} s"
        )
    assert statistics.median(delays[WOKEN]) < 5, "the operator must not wait for a poll every 15 s"


def test_pod_is_not_scaled_down_during_one_long_message(shop: Shop) -> None:
    shop.apply(_consumer("scaled-long", LEDGER, autoscaling=SCALING))
    eventually("no pod is left", lambda: _is_at_zero(shop, "scaled-long"))
    shop.redis("EVAL", ADD_MANY, "1", "scaled-long", "1", str(LONG_SECONDS))
    eventually("the message runs", lambda: shop.redis("HLEN", "scaled-long:started") == "1")
    [pod] = [each["metadata"]["uid"] for each in shop.pods("scaled-long")]
    while shop.redis("HLEN", "scaled-long:done") == "0":
        assert [each["metadata"]["uid"] for each in shop.pods("scaled-long")] == [pod]
        time.sleep(0.5)  # the pod must not change meanwhile
    assert shop.redis("HVALS", "scaled-long:started") == "1"
    eventually("no pod is left again", lambda: _is_at_zero(shop, "scaled-long"))
    assert shop.drained("scaled-long")


def test_scaling_from_zero_to_the_maximum_and_back_interrupts_no_message(shop: Shop) -> None:
    scaling = {**SCALING, "maxReplicas": MAX_PODS, "target": {"backlogPerReplica": MESSAGES // MAX_PODS // 4}}
    shop.apply(_consumer("scaled-many", LEDGER, autoscaling=scaling))
    eventually("no pod is left", lambda: _is_at_zero(shop, "scaled-many"))
    begin = time.monotonic()
    shop.redis("EVAL", ADD_MANY, "1", "scaled-many", str(MESSAGES), "0.02")
    eventually("all pods are ready", lambda: len(shop.ready_pods("scaled-many")) == MAX_PODS, 120)
    print(f"\n0 → {MAX_PODS} pods ready after {time.monotonic() - begin:.1f} s")
    eventually("all messages are done", lambda: shop.drained("scaled-many"), 600)
    print(f"{MESSAGES} messages of 20 ms done after {time.monotonic() - begin:.1f} s")
    eventually("no pod is left again", lambda: _is_at_zero(shop, "scaled-many"), 120)
    print(f"no pods again after {time.monotonic() - begin:.1f} s")
    print(shop.kubectl("describe", "stc", "scaled-many").partition("Events:")[2])
    for count in ("started", "done"):  # no message was interrupted or handled twice
        assert shop.redis("HLEN", f"scaled-many:{count}") == str(MESSAGES)
        assert set(shop.redis("HVALS", f"scaled-many:{count}").splitlines()) == {"1"}


def test_restarts_of_redis_at_zero_and_under_load_lose_no_message(shop: Shop, node: Node) -> None:
    shop.apply(_consumer("scaled-restart", LEDGER, autoscaling=SCALING))
    eventually("no pod is left", lambda: _is_at_zero(shop, "scaled-restart"))
    _restart_redis(shop, node)
    shop.redis("EVAL", ADD_MANY, "1", "scaled-restart", "200", "0.02")
    eventually("a pod is ready", lambda: shop.ready_pods("scaled-restart"), 90)
    _restart_redis(shop, node)
    eventually("all messages are done", lambda: shop.drained("scaled-restart"), 90)
    assert shop.redis("HLEN", "scaled-restart:done") == "200"
    eventually("no pod is left again", lambda: _is_at_zero(shop, "scaled-restart"), 120)


# -- actions and queries --------------------------------------------------------------------------------------------


def _add(shop: Shop, stream: str, key: str) -> float:
    """Add a message. Returns when the server added it, in seconds since 1970. All clocks here are the same."""
    return int(shop.redis("XADD", stream, "*", "key", key).partition("-")[0]) / 1000


def _handled_at(shop: Shop, key: str) -> float:
    return float(shop.redis("BLPOP", key, "60").splitlines()[1])


def _restart_redis(shop: Shop, node: Node) -> None:
    """Kill the container of Redis with kill -9. The pod and its append-only file stay."""
    [pod] = shop.get("pods", "--selector", "app=redis")["items"]
    restarts = pod["status"]["containerStatuses"][0]["restartCount"]
    node.kill_container(NAMESPACE, pod["metadata"]["name"])

    def is_back() -> bool:
        [pod] = shop.get("pods", "--selector", "app=redis")["items"]
        status = pod["status"]["containerStatuses"][0]
        restarted = status["restartCount"] > restarts and status["ready"]
        return bool(restarted and shop.redis("PING") == "PONG")  # Redis listens before it has loaded its data

    eventually("Redis is back", is_back, 60)


def _scale_by_hand(node: Node, resource: str, name: str, replicas: int) -> None:
    """Scale by the API, because the start of kubectl would count."""
    path = f"/apis/{resource}/{name}/scale"
    node.request("PATCH", path, {"spec": {"replicas": replicas}})


def _bare_deployment() -> str:
    container = {
        "name": "bare",
        "image": IMAGE,
        "command": ["python3", "-c", WORKER],
        "env": [{"name": "STREAMCONSUMER_REDIS_URL", "value": "redis://redis:6379/0"}],
    }
    template = {
        "metadata": {"labels": {"app": "bare"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, "enableServiceLinks": False},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "bare"}}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bare"}, "spec": spec})
