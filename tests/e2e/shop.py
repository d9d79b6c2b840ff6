"""The shop of the end-to-end tests: one namespace with Redis, a collector and publishers, and queries about it."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import images
from tests.cluster.node import Node
from tests.cluster.own_cluster import OwnCluster
from tests.cluster.spans import Span, parse_spans

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts/streamconsumer-operator"
ORDERS = ROOT / "examples/orders"
NAMESPACE = "shop"
SYSTEM = "streamconsumer-system"
TOOLS_IMAGE = "streamconsumer-test/orders-tools:test"


def eventually(description: str, condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Poll until `condition` returns a true value, and return it. Raises AssertionError with `description`."""
    deadline, value = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)  # the cluster may be another machine, so there is nothing to await
    raise AssertionError(f"not within {seconds:g} s: {description}; last value: {value!r}")


def build_images() -> list[str]:
    """Build or find every image that pods of these tests run. Returns their references."""
    processor = images.build(ROOT, ROOT / "Dockerfile", "streamconsumer-processor:0.1.0", target="processor")
    operator = images.build(ROOT, ROOT / "Dockerfile", "streamconsumer-operator:0.1.0", target="operator")
    orders = images.build(ORDERS, ORDERS / "Dockerfile", "orders:0.1.0", build_args={"PROCESSOR": processor})
    with tempfile.TemporaryDirectory() as folder:
        for file in [*(ROOT / "tests/e2e/image").iterdir(), ORDERS / "publish.py"]:
            shutil.copy2(file, folder)
        tools = images.build(Path(folder), Path(folder) / "Dockerfile", TOOLS_IMAGE, build_args={"ORDERS": orders})
    return [processor, operator, orders, tools, images.redis(), images.collector()]


@dataclass
class Shop:
    """Commands and queries in the shop's namespace."""

    cluster: Node | OwnCluster

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", NAMESPACE, *arguments, input=stdin)

    def get(self, *arguments: str) -> Any:
        return self.cluster.get(*arguments, "--namespace", NAMESPACE)

    def apply(self, manifest: str) -> None:
        self.kubectl("apply", "-f", "-", stdin=manifest)

    def redis(self, *command: str) -> str:
        return self.kubectl("exec", "deploy/redis", "--", "redis-cli", "--raw", *command).strip()

    def publish(self, name: str, count: int, rate: int) -> None:
        """Start a pod that publishes orders, each with its own trace. See `published`."""
        url, endpoint = "redis://redis:6379/0", "http://collector:4318"
        publisher = ("python3", "publish.py", "--url", url, "--count", str(count), "--rate", str(rate))
        environment = (f"--env=OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}", "--env=OTEL_BSP_MAX_QUEUE_SIZE=65536")
        run = ("run", name, f"--image={TOOLS_IMAGE}", "--restart=Never", "--image-pull-policy=IfNotPresent")
        # The first `python3` on the image's PATH is that of its virtual environment, not Debian's.
        self.kubectl(*run, *environment, "--command", "--", *publisher)

    def published(self, name: str) -> bool:
        """Return whether the publisher has finished. Raises AssertionError with its log if it failed."""
        phase = self.get("pod", name)["status"]["phase"]
        assert phase != "Failed", self.kubectl("logs", name)
        return bool(phase == "Succeeded")

    def group(self, stream: str = "orders") -> dict[str, int]:
        """Return pending, lag, consumers and entries-read of the stream's only group. -1 means unknown. Returns no
        values if no pod has created the group yet."""
        flat = self.redis("XINFO", "GROUPS", stream).splitlines()
        if len(flat) < 2 or flat[0].startswith("ERR"):
            return {}
        info = dict(zip(flat[::2], flat[1::2], strict=True))
        return {name: int(info[name] or -1) for name in ("pending", "lag", "consumers", "entries-read")}

    def drained(self, stream: str = "orders") -> bool:
        """Return whether every entry was delivered and acknowledged."""
        group = self.group(stream)
        return bool(group) and group["lag"] == 0 and group["pending"] == 0

    def consumer(self, name: str = "orders") -> Any:
        return self.get("stc", name)

    def condition(self, name: str, kind: str = "Ready") -> dict[str, Any]:
        """Return a condition of a StreamConsumer. Empty if the condition does not exist yet."""
        conditions: list[dict[str, Any]] = self.consumer(name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def pods(self, name: str = "orders") -> list[Any]:
        """Return the StreamConsumer's pods without those that are being deleted."""
        return [pod for pod in self.all_pods(name) if not pod["metadata"].get("deletionTimestamp")]

    def all_pods(self, name: str = "orders") -> list[Any]:
        """Return the StreamConsumer's pods, including those that are being deleted."""
        pods: list[Any] = self.get("pods", "--selector", f"streamconsumer.dev/name={name}")["items"]
        return pods

    def ready_pods(self, name: str = "orders") -> list[str]:
        statuses = {pod["metadata"]["name"]: pod["status"].get("containerStatuses", []) for pod in self.pods(name)}
        return [pod for pod, containers in statuses.items() if containers and all(each["ready"] for each in containers)]

    def wait_ready(self, name: str = "orders", seconds: int = 60) -> float:
        """Wait until a StreamConsumer is Ready. Returns the seconds that `kubectl wait` took."""
        begin = time.monotonic()
        self.kubectl("wait", "--for=condition=Ready", f"stc/{name}", f"--timeout={seconds}s")
        return time.monotonic() - begin

    def settled(self, name: str, replicas: int) -> bool:
        """Return whether the current spec is rolled out with `replicas` ready pods and no other pods."""
        consumer = self.consumer(name)
        status = consumer.get("status", {})
        return bool(
            status.get("observedGeneration") == consumer["metadata"]["generation"]
            and status.get("readyReplicas") == status.get("replicas") == replicas
            and self.condition(name, "Reconciling").get("status") == "False"
            and len(self.ready_pods(name)) == replicas
        )

    def spans(self, name: str) -> list[Span]:
        """Return every span with this name that the collector has written."""
        text = self.kubectl("exec", "deploy/collector", "--", "cat", "/data/spans.json")
        return [span for span in parse_spans(text) if span.name == name]
