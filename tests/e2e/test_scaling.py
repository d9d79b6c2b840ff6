"""From zero to many and back, with real pods. STREAMCONSUMER_TEST_SCALE=whole takes the sizes of docs/scaling.md."""

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
WAKES = 10 if WHOLE else 3
LONG_SECONDS = 40 if WHOLE else 12
MESSAGES, MOST_PODS = (50_000, 8) if WHOLE else (4_000, 4)

WOKEN = "woken by the operator"
SAME = "the same consumer, scaled by hand"
BARE_WORKER = "a redis-py worker, scaled by hand"

STREAMCONSUMERS = f"streamconsumer.dev/v1alpha1/namespaces/{NAMESPACE}/streamconsumers"
DEPLOYMENTS = f"apps/v1/namespaces/{NAMESPACE}/deployments"

IMAGE = "streamconsumer-processor:0.1.0"
SCALING = {"cooldown": "1s", "scaleDown": {"stabilizationWindow": "1s"}}

SAYS_WHEN = """
import os, redis
server = redis.Redis.from_url(os.environ["STREAMCONSUMER_REDIS_URL"])

def handle(data):
    seconds, micros = server.time()
    server.lpush(data["tell"], f"{seconds}.{micros:06}")
"""
"""For the handler below and for the bare worker: both tell the server's own time."""

BARE = (
    SAYS_WHEN
    + """
while True:
    for _, entries in server.xreadgroup("g", "bare", {"bare": ">"}, count=10, block=5000) or []:
        for key, data in entries:
            handle({"tell": data[b"tell"]})
            server.xack("bare", "g", key)
"""
)

LEDGER = """
import asyncio, os
from redis.asyncio import Redis
from streamconsumer.processor import current_message
server = Redis.from_url(os.environ["STREAMCONSUMER_REDIS_URL"])

async def handle(data):
    message_id = current_message().message_id
    await server.hincrby(data["ledger"] + ":begun", message_id, 1)
    await asyncio.sleep(float(data["seconds"]))
    await server.hincrby(data["ledger"] + ":done", message_id, 1)
"""

ADD_MANY = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'ledger', KEYS[1], 'seconds', ARGV[2]) end"


@pytest.fixture(autouse=True, scope="module")
def _operator(shop: Shop) -> None:
    """The chart, installed by whichever test comes first."""
    shop.cluster.helm(
        *("upgrade", "--install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace"),
        *("--wait", "--timeout", "90s"),
    )


@pytest.fixture(autouse=True)
def _told_on_failure(shop: Shop, request: pytest.FixtureRequest) -> Iterator[None]:
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        print(shop.kubectl("describe", "stc"))
    for each in shop.get("stc")["items"]:
        if each["metadata"]["name"].startswith("scaled-"):
            shop.kubectl("delete", "stc", each["metadata"]["name"])


def _scaled(name: str, source: str, **spec: object) -> str:
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


def _asleep(shop: Shop, name: str) -> bool:
    """Whether there are no pods, nor any on their way out, and the operator has said so."""
    status = shop.consumer(name).get("status", {})
    return status.get("desiredReplicas") == 0 and not shop.all_pods(name)


def test_the_first_message_at_zero_is_handled_hardly_later_than_a_deployment_that_is_scaled_by_hand(
    shop: Shop, node: Node
) -> None:
    shop.apply(_scaled("scaled-wake", SAYS_WHEN, autoscaling=SCALING))
    shop.apply(_scaled("scaled-hand", SAYS_WHEN))
    shop.apply(_bare_deployment())
    shop.redis("XGROUP", "CREATE", "bare", "g", "0", "MKSTREAM")
    eventually("it is there", lambda: shop.group("scaled-hand"))
    _scale_by_hand(node, STREAMCONSUMERS, "scaled-hand", 0)
    told: dict[str, list[float]] = {WOKEN: [], SAME: [], BARE_WORKER: []}
    for each in range(WAKES):
        eventually("it sleeps", lambda: _asleep(shop, "scaled-wake") and not shop.all_pods("scaled-hand"))
        added = _add(shop, "scaled-wake", f"woken-{each}")
        told[WOKEN].append(_handled_at(shop, f"woken-{each}") - added)
        for who, resource, name in ((SAME, STREAMCONSUMERS, "scaled-hand"), (BARE_WORKER, DEPLOYMENTS, "bare")):
            _add(shop, name, f"{name}-{each}")
            begin = time.time()
            _scale_by_hand(node, resource, name, 1)
            told[who].append(_handled_at(shop, f"{name}-{each}") - begin)
            _scale_by_hand(node, resource, name, 0)
    shop.kubectl("delete", "deployment", "bare")
    for who, seconds in told.items():
        print(f"\nfirst message at zero, {who}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
    assert statistics.median(told[WOKEN]) < 5, "not by a look every 15 s"


def test_one_long_message_and_nothing_else_runs_to_its_end_once(shop: Shop) -> None:
    shop.apply(_scaled("scaled-long", LEDGER, autoscaling=SCALING))
    eventually("it sleeps", lambda: _asleep(shop, "scaled-long"))
    shop.redis("EVAL", ADD_MANY, "1", "scaled-long", "1", str(LONG_SECONDS))
    eventually("it runs", lambda: shop.redis("HLEN", "scaled-long:begun") == "1")
    [pod] = [each["metadata"]["uid"] for each in shop.pods("scaled-long")]
    while shop.redis("HLEN", "scaled-long:done") == "0":
        assert [each["metadata"]["uid"] for each in shop.pods("scaled-long")] == [pod]
        time.sleep(0.5)  # nothing may happen meanwhile
    assert shop.redis("HVALS", "scaled-long:begun") == "1"
    eventually("it sleeps again", lambda: _asleep(shop, "scaled-long"))
    assert shop.drained("scaled-long")


def test_from_zero_to_the_most_and_back_every_message_is_handled_and_nobody_is_interrupted(shop: Shop) -> None:
    scaling = {**SCALING, "maxReplicas": MOST_PODS, "target": {"backlogPerReplica": MESSAGES // MOST_PODS // 4}}
    shop.apply(_scaled("scaled-many", LEDGER, autoscaling=scaling))
    eventually("it sleeps", lambda: _asleep(shop, "scaled-many"))
    begin = time.monotonic()
    shop.redis("EVAL", ADD_MANY, "1", "scaled-many", str(MESSAGES), "0.02")
    eventually("all pods work", lambda: len(shop.ready_pods("scaled-many")) == MOST_PODS, 120)
    print(f"\n0 → {MOST_PODS} pods ready after {time.monotonic() - begin:.1f} s")
    eventually("all is done", lambda: shop.drained("scaled-many"), 600)
    print(f"{MESSAGES} messages of 20 ms done after {time.monotonic() - begin:.1f} s")
    eventually("it sleeps again", lambda: _asleep(shop, "scaled-many"), 120)
    print(f"no pods again after {time.monotonic() - begin:.1f} s")
    print(shop.kubectl("describe", "stc", "scaled-many").partition("Events:")[2])
    for count in ("begun", "done"):  # nobody was interrupted and nothing was handled twice
        assert shop.redis("HLEN", f"scaled-many:{count}") == str(MESSAGES)
        assert set(shop.redis("HVALS", f"scaled-many:{count}").splitlines()) == {"1"}


def test_redis_that_restarts_at_zero_and_under_load_neither_loses_a_message_nor_keeps_anybody_asleep(
    shop: Shop, node: Node
) -> None:
    shop.apply(_scaled("scaled-restart", LEDGER, autoscaling=SCALING))
    eventually("it sleeps", lambda: _asleep(shop, "scaled-restart"))
    _restart_redis(shop, node)
    shop.redis("EVAL", ADD_MANY, "1", "scaled-restart", "200", "0.02")
    eventually("it is awake", lambda: shop.ready_pods("scaled-restart"), 90)
    _restart_redis(shop, node)
    eventually("all is done", lambda: shop.drained("scaled-restart"), 90)
    assert shop.redis("HLEN", "scaled-restart:done") == "200"
    eventually("it sleeps again", lambda: _asleep(shop, "scaled-restart"), 120)


# -- what the tests do -----------------------------------------------------------------------------------------------


def _add(shop: Shop, stream: str, tell: str) -> float:
    """When the server says it was added, in seconds since 1970. Everybody here has the same clock."""
    return int(shop.redis("XADD", stream, "*", "tell", tell).partition("-")[0]) / 1000


def _handled_at(shop: Shop, tell: str) -> float:
    return float(shop.redis("BLPOP", tell, "60").splitlines()[1])


def _restart_redis(shop: Shop, node: Node) -> None:
    """kill -9 of its container, not its pod: the append-only file stays."""
    [pod] = shop.get("pods", "--selector", "app=redis")["items"]
    restarts = pod["status"]["containerStatuses"][0]["restartCount"]
    node.kill_container(NAMESPACE, pod["metadata"]["name"])

    def back() -> bool:
        [again] = shop.get("pods", "--selector", "app=redis")["items"]
        status = again["status"]["containerStatuses"][0]
        restarted = status["restartCount"] > restarts and status["ready"]
        return bool(restarted and shop.redis("PING") == "PONG")  # it listens before it has loaded what it had

    eventually("Redis is back", back, 60)


def _scale_by_hand(node: Node, resource: str, name: str, replicas: int) -> None:
    """By the API, and not by kubectl, whose start would count."""
    path = f"/apis/{resource}/{name}/scale"
    node.request("PATCH", path, {"spec": {"replicas": replicas}})


def _bare_deployment() -> str:
    container = {
        "name": "bare",
        "image": IMAGE,
        "command": ["python3", "-c", BARE],
        "env": [{"name": "STREAMCONSUMER_REDIS_URL", "value": "redis://redis:6379/0"}],
    }
    template = {
        "metadata": {"labels": {"app": "bare"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, "enableServiceLinks": False},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "bare"}}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bare"}, "spec": spec})
