"""The steps of the README, then all kinds of disruption of a running consumer.

Each test depends on the previous one, so `make e2e` stops at the first failure.
"""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.cluster.node import Node
from tests.e2e.shop import CHART, NAMESPACE, ORDERS, SYSTEM, TOOLS_IMAGE, Shop, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FIRST_RUN = 10_000
SECOND_RUN, RATE = 15_000, 150


def _inline(name: str, stream: str, source: str, **spec: object) -> str:
    manifest = {
        "apiVersion": "streamconsumer.dev/v1alpha1",
        "kind": "StreamConsumer",
        "metadata": {"name": name},
        "spec": {
            "redis": {"url": "redis://redis:6379/0"},
            "stream": stream,
            "consumerGroup": "tests",
            "handler": {"source": source},
            "telemetry": {"endpoint": "http://collector:4318"},
            **spec,
        },
    }
    return yaml.safe_dump(manifest)


def test_chart_installs_with_helm_4(shop: Shop) -> None:
    begin = time.monotonic()
    shop.cluster.helm(
        *("install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--create-namespace", "--wait"),
        *("--timeout", "90s", "--set", f"telemetry.endpoint=http://collector.{NAMESPACE}:4318"),
    )
    print(f"\nhelm install --wait: {time.monotonic() - begin:.1f} s")


def test_orders_example_becomes_ready_and_counts_earlier_entries(shop: Shop) -> None:
    shop.publish("publish-first", FIRST_RUN, 2000)
    eventually("the publisher starts", lambda: shop.redis("EXISTS", "orders") == "1")
    shop.kubectl("apply", "-f", str(ORDERS))
    print(f"\nkubectl apply to Ready: {shop.wait_ready():.1f} s")
    columns = shop.kubectl("get", "stc")
    print(columns)
    header, row = (line.split() for line in columns.splitlines())
    assert header == ["NAME", "STREAM", "GROUP", "DESIRED", "READY", "LAG", "PENDING", "STATUS", "AGE"]
    assert row[:5] == ["orders", "orders", "billing", "1", "1"]
    assert "AllPodsReady" in row[5:]  # an unknown value is blank
    assert shop.condition("orders", "RedisReachable")["status"] == "True"  # `redis` is a Service here
    shop.kubectl("get", "stc", "orders", "-o", "wide")


def test_10000_orders_are_handled_acknowledged_and_traced(shop: Shop) -> None:
    eventually("all published", lambda: shop.published("publish-first"), 120)
    eventually("all acknowledged", shop.drained, 180)
    assert shop.group()["entries-read"] == FIRST_RUN
    eventually("all spans written", lambda: len(shop.spans("process orders")) >= FIRST_RUN, 30)

    sent = {(span.trace_id, span.span_id) for span in shop.spans("send orders")}
    processed = shop.spans("process orders")
    succeeded = {(span.trace_id, span.parent_span_id) for span in processed if span.status_code != "ERROR"}
    assert len(sent) == FIRST_RUN
    assert sent <= succeeded, f"{len(sent - succeeded)} orders have no successful span in their producer's trace"
    span = processed[0]
    assert span.kind == "CONSUMER"
    producers = [link for link in span.links if "streamconsumer.link" not in link.attributes]
    assert [(link.trace_id, link.span_id) for link in producers] == [(span.trace_id, span.parent_span_id)]
    assert span.attributes["messaging.system"] == "redis"
    assert span.attributes["messaging.consumer.group.name"] == "billing"
    assert span.resource["service.name"] == "orders"
    assert span.resource["k8s.namespace.name"] == NAMESPACE
    assert span.resource["k8s.pod.name"] == span.attributes["messaging.client.id"]
    assert span.resource["k8s.node.name"]


def test_first_order_links_to_the_start_of_its_pod(shop: Shop) -> None:
    [start] = shop.spans("start orders")
    assert start.links == ()
    links = [link for span in shop.spans("process orders") for link in span.links if link.span_id == start.span_id]
    assert [link.attributes for link in links] == [{"streamconsumer.link": "pod_start"}]


def test_failed_orders_are_retried_in_the_same_trace(shop: Shop) -> None:
    spans = shop.spans("process orders")
    failed = [span for span in spans if span.status_code == "ERROR"]
    retried = {span.trace_id: span for span in spans if span.attributes.get("streamconsumer.delivery.count") == 2}
    assert len(failed) == FIRST_RUN // 50
    assert {span.trace_id for span in failed} == retried.keys()
    assert {span.attributes["error.type"] for span in failed} == {"TimeoutError"}
    waits = sorted((retried[span.trace_id].start_ns - span.end_ns) / 1e9 for span in failed)
    print(f"\n{len(spans)} spans, {len(failed)} of them failed, retried after {waits[0]:.1f} to {waits[-1]:.1f} s")
    assert waits[-1] < 60, "the example's backoff is at most 2 s"


def test_no_order_is_lost_while_the_consumer_is_disrupted(shop: Shop, node: Node) -> None:
    """Scale, roll out, delete a pod, kill a container, edit by hand and restart the operator, while orders arrive."""
    ledger = {"spec": {"image": TOOLS_IMAGE, "handler": {"python": "ledger:handle"}, "concurrency": 4}}
    _patch(shop, ledger)
    eventually("the ledger handler is rolled out", lambda: shop.settled("orders", 1))
    before = shop.redis("XINFO", "STREAM", "orders").splitlines()
    last_before = before[before.index("last-generated-id") + 1]

    shop.publish("publish-second", SECOND_RUN, RATE)
    shop.kubectl("scale", "stc/orders", "--replicas=3")
    eventually("three pods read", lambda: shop.settled("orders", 3))
    assert shop.get("poddisruptionbudget", "orders-consumer")["spec"]["maxUnavailable"] == 1

    _patch(shop, {"spec": {"batchCount": 20}})
    eventually("the new configuration is rolled out", lambda: shop.settled("orders", 3), 90)

    victim = shop.ready_pods()[0]
    shop.kubectl("delete", "pod", victim, "--wait=false")
    eventually("the deleted pod is replaced", lambda: shop.settled("orders", 3) and victim not in shop.ready_pods())

    victim = shop.ready_pods()[0]
    node.kill_container(NAMESPACE, victim)
    eventually("the killed container is restarted", lambda: _restarts(shop, victim) == 1)

    _edit_by_hand(shop)
    _restart_operator(shop)

    eventually("all published", lambda: shop.published("publish-second"), 180)
    eventually("all acknowledged", shop.drained, 120)
    counts = _ledger(shop)
    ids = set(re.findall(r"^\d+-\d+$", shop.redis("XRANGE", "orders", f"({last_before}", "+"), re.MULTILINE))
    assert len(ids) == SECOND_RUN
    assert ids == counts.keys(), f"lost: {sorted(ids - counts.keys())[:5]}"
    print(
        f"\npublished {len(ids)}, handled {len(counts)}, pending 0, handled more than once: "
        f"{sum(count > 1 for count in counts.values())}"
    )


def test_idle_pod_exits_with_0_after_sigterm_without_waiting_for_its_read(shop: Shop, node: Node) -> None:
    shop.kubectl("scale", "stc/orders", "--replicas=1")
    eventually("one pod is left", lambda: shop.settled("orders", 1))
    pod = shop.ready_pods()[0]
    seconds = _terminate(node, pod)
    terminated = eventually("the kubelet notices", lambda: _last_termination(shop, pod))
    print(f"\nSIGTERM to exit, idle: {seconds * 1000:.0f} ms")
    assert terminated["exitCode"] == 0
    assert seconds < 4, "the pod waited for its read, which blocks for 5 s"


def test_busy_pod_finishes_its_message_after_sigterm_and_exports_its_span(shop: Shop, node: Node) -> None:
    slow = "import asyncio\n\nasync def handle(data):\n    await asyncio.sleep(4)\n"
    shop.apply(_inline("slow", "slow", slow, drainTimeout="20s"))
    shop.wait_ready("slow")
    pod = shop.ready_pods("slow")[0]
    shop.redis("XADD", "slow", "*", "number", "1")
    eventually("the message is being handled", lambda: shop.group("slow")["pending"] == 1)
    seconds = _terminate(node, pod)
    terminated = eventually("the kubelet notices", lambda: _last_termination(shop, pod))
    print(f"\nSIGTERM to exit, with 4 s of work: {seconds:.1f} s")
    assert terminated["exitCode"] == 0
    assert 2 < seconds < 20
    assert shop.drained("slow")
    eventually("the span is in the collector", lambda: shop.spans("process slow"), 10)
    assert len(shop.spans("process slow")) == 1
    shop.kubectl("delete", "stc", "slow")


def test_rejected_message_is_a_dead_letter_that_its_pod_can_list(shop: Shop) -> None:
    reject = "from streamconsumer.processor import Reject\n\ndef handle(data):\n    raise Reject('no such customer')\n"
    shop.apply(_inline("rejecting", "rejecting", reject))
    shop.wait_ready("rejecting")
    message_id = shop.redis("XADD", "rejecting", "*", "customer", "4711")
    eventually("the message is settled", lambda: shop.drained("rejecting"))
    listing = ("streamconsumer", "dead-letters", "list", "-o", "json")
    [dead_letter] = json.loads(shop.kubectl("exec", "deploy/rejecting-consumer", "--", *listing))["deadLetters"]
    assert (dead_letter["reason"], dead_letter["messageId"], dead_letter["deliveries"]) == ("Rejected", message_id, 1)
    assert dead_letter["error"]["message"] == "no such customer"
    assert dead_letter["fields"] == [{"name": "customer", "value": "4711"}]
    shop.kubectl("delete", "stc", "rejecting")


def test_missing_handler_is_reported_by_the_pod_and_by_the_condition(shop: Shop) -> None:
    broken = yaml.safe_load(_inline("broken", "broken", "x"))
    broken["spec"]["handler"] = {"python": "shop.billing:handle"}
    shop.apply(yaml.safe_dump(broken))
    ready = eventually(
        "the condition reports it",
        lambda: (c := shop.condition("broken")).get("reason") == "HandlerUnusable" and c,
    )
    assert "module 'shop' not found" in ready["message"]
    assert shop.condition("broken", "Stalled")["status"] == "True"
    pod = shop.pods("broken")[0]["metadata"]["name"]  # empty between two restarts
    logged = eventually("the pod logs one line", lambda: shop.kubectl("logs", pod).splitlines())
    assert len(logged) == 1
    assert "HandlerUnusable" in json.loads(logged[0])["message"]
    described = shop.kubectl("describe", "stc", "broken")
    assert re.search(r"Warning\s+HandlerUnusable", described)
    print("\n" + shop.kubectl("get", "stc", "broken", "-o", "wide"))
    shop.kubectl("delete", "stc", "broken")


def test_change_of_the_stream_is_rejected_with_a_message(shop: Shop) -> None:
    changed = yaml.safe_load((ORDERS / "consumer.yaml").read_text())
    changed["spec"]["stream"] = "other"
    with pytest.raises(Exception, match="stream is immutable: create another StreamConsumer for another stream"):
        shop.apply(yaml.safe_dump(changed))


def test_edited_inline_source_is_rolled_out(shop: Shop) -> None:
    source = (
        "import os, redis\n"
        "server = redis.Redis.from_url(os.environ['STREAMCONSUMER_REDIS_URL'])\n"
        "def handle(data):\n    server.set('version', '{}')\n"
    )
    shop.apply(_inline("inline", "inline", source.format("first")))
    shop.wait_ready("inline")
    shop.redis("XADD", "inline", "*", "a", "1")
    eventually("the first source ran", lambda: shop.redis("GET", "version") == "first")
    shop.apply(_inline("inline", "inline", source.format("second")))
    eventually("the second source is rolled out", lambda: shop.settled("inline", 1))
    # A terminating pod reads until it gets SIGTERM, and Redis serves the reader that has waited longest first.
    eventually("the first pod is gone", lambda: len(shop.all_pods("inline")) == 1)
    shop.redis("XADD", "inline", "*", "a", "2")
    eventually("the second source ran", lambda: shop.redis("GET", "version") == "second")


def test_deleting_the_resource_removes_its_children_and_keeps_the_group(shop: Shop) -> None:
    shop.kubectl("delete", "stc", "inline")

    def children() -> list[object]:
        kinds = "deployment,serviceaccount,configmap,poddisruptionbudget,pod"
        return list(shop.get(kinds, "--selector", "streamconsumer.dev/name=inline")["items"])

    eventually("the children are gone", lambda: not children())
    # The remaining consumer is no pod: it owns postponed entries.
    assert shop.group("inline") == {"pending": 0, "lag": 0, "consumers": 1, "entries-read": 2}


def test_uninstall_keeps_resources_and_a_reinstall_with_helm_3_restarts_no_pod(
    shop: Shop,
) -> None:
    pods = {pod["metadata"]["uid"] for pod in shop.pods()}
    version = shop.consumer()["metadata"]["resourceVersion"]
    shop.cluster.helm("uninstall", "streamconsumer", "--namespace", SYSTEM, "--wait")
    assert shop.consumer()["metadata"]["resourceVersion"] == version
    assert shop.ready_pods(), "the pods must run without the operator"
    shop.cluster.helm(
        *("install", "streamconsumer", str(CHART), "--namespace", SYSTEM, "--wait", "--timeout", "90s"),
        version=3,
    )
    _patch(shop, {"metadata": {"annotations": {"test": "seen"}}})
    shop.apply(_inline("after", "after", "async def handle(data): pass\n"))
    shop.wait_ready("after")  # the new operator works
    assert {pod["metadata"]["uid"] for pod in shop.pods()} == pods
    assert shop.settled("orders", 1)


# -- actions and queries ---------------------------------------------------------------------------------------------


def _patch(shop: Shop, change: Mapping[str, object]) -> None:
    shop.kubectl("patch", "stc", "orders", "--type=merge", "--patch", json.dumps(change))


def _restarts(shop: Shop, pod: str) -> int:
    statuses = shop.get("pod", pod)["status"]["containerStatuses"]
    return int(statuses[0]["restartCount"]) if statuses[0]["ready"] else 0


def _last_termination(shop: Shop, pod: str) -> dict[str, int]:
    status = shop.get("pod", pod)["status"]["containerStatuses"][0]
    terminated: dict[str, int] = status["state"].get("terminated") or status["lastState"].get("terminated") or {}
    return terminated


def _edit_by_hand(shop: Shop) -> None:
    """Edit image and replicas of the Deployment, and check that the operator reverts both within 5 s."""
    edit = {
        "spec": {
            "replicas": 1,
            "template": {"spec": {"containers": [{"name": "processor", "image": "nothing:1"}]}},
        }
    }
    shop.kubectl("patch", "deployment", "orders-consumer", "--patch", json.dumps(edit))
    begin = time.monotonic()

    def is_reverted() -> bool:
        spec = shop.get("deployment", "orders-consumer")["spec"]
        image = spec["template"]["spec"]["containers"][0]["image"]
        return bool(spec["replicas"] == 3 and image == TOOLS_IMAGE)

    eventually("the edit is reverted", is_reverted, 5)
    print(f"\nmanual edit reverted after {time.monotonic() - begin:.1f} s")
    eventually("three pods are ready again", lambda: shop.settled("orders", 3))
    eventually("the Event DriftRepaired exists", lambda: "DriftRepaired" in shop.kubectl("describe", "stc", "orders"))


def _restart_operator(shop: Shop) -> None:
    pods = {pod["metadata"]["uid"] for pod in shop.pods()}
    shop.cluster.kubectl("rollout", "restart", "deployment", "--namespace", SYSTEM)
    shop.cluster.kubectl(
        "rollout", "status", "deployment/streamconsumer-operator", "--namespace", SYSTEM, "--timeout=60s"
    )
    shop.kubectl("scale", "stc/orders", "--replicas=2")
    eventually("the new operator scales", lambda: shop.settled("orders", 2))
    assert {pod["metadata"]["uid"] for pod in shop.pods()} <= pods, "the restart of the operator restarted a pod"


def _ledger(shop: Shop) -> Counter[str]:
    flat = shop.redis("HGETALL", "handled").splitlines()
    return Counter({message_id: int(count) for message_id, count in zip(flat[::2], flat[1::2], strict=True)})


def _terminate(node: Node, pod: str) -> float:
    """Send SIGTERM to the pod's first process, as the kubelet does. Returns the seconds until the process ended."""
    pid = node.container_pid(NAMESPACE, pod)
    os.kill(pid, signal.SIGTERM)
    begin = time.monotonic()
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.005)
        assert time.monotonic() - begin < 60, f"{pod} does not end"
    return time.monotonic() - begin
