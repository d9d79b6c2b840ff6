"""Tasks of an administrator while orders arrive: Helm test, upgrade, rollback and a changed password.

Each test depends on the previous one.
"""

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster import images
from tests.e2e.shop import CHART, NAMESPACE, SYSTEM, TOOLS_IMAGE, Shop, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

RELEASE = ("streamconsumer", "--namespace", SYSTEM)
LEDGER = """
import redis
from streamconsumer.processor import current_message

server = redis.Redis.from_url("redis://redis:6379/0")

def handle(data):
    server.hincrby("ledger:{stream}", current_message().message_id, 1)
"""
PUBLISHER = """
import sys, time
import redis

server, streams, begin = redis.Redis.from_url("redis://redis:6379/0"), sys.argv[2:], time.monotonic()
for number in range(int(sys.argv[1])):
    time.sleep(max(0.0, begin + number / 100 - time.monotonic()))
    for stream in streams:
        server.xadd(stream, {"number": number})
"""


def consumer(name: str, **spec: object) -> str:
    """Return a StreamConsumer of stream `<name>` that counts handled messages in `ledger:<name>`."""
    fields = {
        "redis": {"url": "redis://redis:6379/0"},
        "stream": name,
        "consumerGroup": "tests",
        "handler": {"source": LEDGER.replace("{stream}", name)},
        "replicas": 2,
        **spec,
    }
    type_meta = {"apiVersion": "streamconsumer.dev/v1alpha1", "kind": "StreamConsumer"}
    return yaml.safe_dump({**type_meta, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": fields})


def publish(shop: Shop, pod: str, count: int, *streams: str) -> None:
    """Start a pod that adds a hundred entries per second to each stream."""
    run = ("run", pod, f"--image={TOOLS_IMAGE}", "--restart=Never", "--image-pull-policy=IfNotPresent")
    shop.kubectl(*run, "--command", "--", "python3", "-c", PUBLISHER, str(count), *streams)
    eventually(f"{pod} publishes", lambda: all(shop.redis("EXISTS", stream) == "1" for stream in streams))


def check_ledger(shop: Shop, stream: str, published: int) -> None:
    """Check that every produced message was handled and none is pending."""
    eventually(f"all of {stream} is acknowledged", lambda: shop.drained(stream), 60)
    flat = shop.redis("HGETALL", f"ledger:{stream}").splitlines()
    handled = {message: int(count) for message, count in zip(flat[::2], flat[1::2], strict=True)}
    lines = shop.redis("XRANGE", stream, "-", "+").splitlines()
    produced = set(lines[::3])  # id, field, value
    assert len(produced) == published
    assert produced == handled.keys(), f"lost of {stream}: {sorted(produced - handled.keys())[:5]}"
    twice = sum(count > 1 for count in handled.values())
    print(f"\n{stream}: produced {len(produced)}, handled {len(handled)}, pending 0, handled more than once: {twice}")


def container_starts(shop: Shop, name: str) -> set[tuple[str, int]]:
    """Return the uid of each pod with the restart count of its container."""
    return {
        (pod["metadata"]["uid"], status["restartCount"])
        for pod in shop.pods(name)
        for status in pod["status"]["containerStatuses"]
    }


@pytest.fixture(scope="module")
def release(shop: Shop) -> Iterator[Shop]:
    """Install the chart with access to the Secrets of the shop, and with the URL of a Redis for `helm test`."""
    if "streamconsumer" in shop.cluster.helm("list", "--short", "--namespace", SYSTEM):
        shop.cluster.helm("uninstall", *RELEASE, "--wait")
    test_values = ("--set", f"test.redisUrl=redis://redis.{NAMESPACE}:6379/0,rbac.secretNamespaces={{{NAMESPACE}}}")
    install = ("install", RELEASE[0], str(CHART), *RELEASE[1:], "--create-namespace")
    shop.cluster.helm(*install, *test_values, "--wait", "--timeout", "90s")
    yield shop
    shop.kubectl("delete", "stc", "--all")


@pytest.mark.parametrize("version", [3, 4])
def test_helm_test_publishes_a_message_and_waits_until_it_is_handled(release: Shop, version: int) -> None:
    begin = time.monotonic()
    output = release.cluster.helm("test", *RELEASE, "--logs", version=version)
    print(f"\nhelm {version} test: {time.monotonic() - begin:.1f} s")
    assert "a message was published, handled by a pod of a StreamConsumer, and acknowledged" in output
    assert release.redis("KEYS", "*helm-test*") == "", "the keys of the test must be deleted"
    assert release.cluster.get("stc", "--namespace", SYSTEM)["items"] == []


def test_upgrade_and_rollback_under_load_lose_nothing_and_restart_only_pods_of_the_stock_image(
    release: Shop,
) -> None:
    for name, spec in {"own": {"image": TOOLS_IMAGE}, "stock": {}}.items():
        release.apply(consumer(name, **spec))
        release.wait_ready(name)
    for name in ("operator", "processor"):
        old, new = (images.full_reference(f"streamconsumer-{name}:{tag}") for tag in ("0.1.0", "next"))
        subprocess.run(["podman", "tag", old, new], check=True)
        release.cluster.load_image(new)
    before = {name: container_starts(release, name) for name in ("own", "stock")}

    publish(release, "publish-upgrade", 4000, "own", "stock")
    extra_objects = json.dumps([yaml.safe_load(consumer("extra"))])
    new_images = "image.tag=next,processor.image.tag=next"
    begin = time.monotonic()
    release.cluster.helm(
        *("upgrade", RELEASE[0], str(CHART), *RELEASE[1:], "--reuse-values", "--set", new_images),
        *("--set-json", f"extraObjects={extra_objects}", "--wait", "--timeout", "90s"),
    )
    print(f"\nhelm upgrade --wait: {time.monotonic() - begin:.1f} s")
    assert release.condition("extra")["status"] == "True", "Helm 4 must wait for StreamConsumers of a release"
    eventually("the stock image's pods are replaced", lambda: _stock_runs(release, "next"), 60)
    assert not {uid for uid, _ in container_starts(release, "stock")} & {uid for uid, _ in before["stock"]}

    release.cluster.helm("rollback", RELEASE[0], "1", *RELEASE[1:], "--wait", "--timeout", "90s")
    eventually("the rollback is rolled out", lambda: _stock_runs(release, "0.1.0"), 60)
    eventually("all published", lambda: release.published("publish-upgrade"), 90)
    for name in ("own", "stock"):
        check_ledger(release, name, 4000)
    assert container_starts(release, "own") == before["own"]


def _stock_runs(shop: Shop, tag: str) -> bool:
    """Return whether all pods of the stock image have this tag and are ready."""
    tags = {pod["spec"]["containers"][0]["image"].partition(":")[2] for pod in shop.all_pods("stock")}
    return tags == {tag} and shop.settled("stock", 2)


def test_password_change_in_redis_and_secret_loses_no_message_and_restarts_no_pod(release: Shop) -> None:
    release.redis("ACL", "SETUSER", "rotating", "on", ">password-one", "~*", "&*", "+@all")
    release.kubectl(
        "create", "secret", "generic", "login", "--from-literal=user=rotating", "--from-literal=word=password-one"
    )
    refs = {
        f"{field}SecretRef": {"name": "login", "key": key}
        for field, key in {"username": "user", "password": "word"}.items()
    }
    endpoint = {"endpoint": "http://collector:4318"}
    release.apply(consumer("rotation", redis={"url": "redis://redis:6379/0", **refs}, telemetry=endpoint))
    release.wait_ready("rotation")
    before = container_starts(release, "rotation")

    publish(release, "publish-rotation", 2000, "rotation")
    release.redis("ACL", "SETUSER", "rotating", "<password-one", ">password-two")
    release.redis("CLIENT", "KILL", "USER", "rotating")
    refused = lambda: release.condition("rotation", "RedisReachable").get("reason") == "CredentialsRefused"  # noqa: E731
    eventually("the first password is refused", refused, 60)
    release.kubectl("patch", "secret", "login", "--patch", json.dumps({"stringData": {"word": "password-two"}}))
    # The kubelet updates the files of a Secret every minute, and when a pod changes.
    release.kubectl("annotate", "pod", "--selector", "streamconsumer.dev/name=rotation", "test=update")
    begin = time.monotonic()
    eventually("all published", lambda: release.published("publish-rotation"), 90)
    check_ledger(release, "rotation", 2000)
    print(f"after the Secret changed: {time.monotonic() - begin:.1f} s")
    reachable = lambda: release.condition("rotation", "RedisReachable").get("status") == "True"  # noqa: E731
    eventually("the operator connects again", reachable, 60)
    assert container_starts(release, "rotation") == before
    eventually("spans are written", lambda: release.spans("process rotation"), 10)
    outputs = {
        "objects": release.kubectl("get", "stc,events,deployments,pods", "--output", "yaml"),
        "logs of the pods": release.kubectl("logs", "--selector", "streamconsumer.dev/name=rotation", "--tail=-1"),
        "log of the operator": release.cluster.kubectl(
            *("logs", "--namespace", SYSTEM, "--selector", "app.kubernetes.io/component=operator", "--tail=-1")
        ),
        "spans": release.kubectl("exec", "deploy/collector", "--", "cat", "/data/spans.json"),
    }
    for place, text in outputs.items():
        assert "password-one" not in text, place
        assert "password-two" not in text, place
