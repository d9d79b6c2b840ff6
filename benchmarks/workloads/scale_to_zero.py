"""Workload: the cost of 500 StreamConsumers with autoscaling for one Redis and the operator."""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.results import Goal, Section
from benchmarks.workloads.operator import cpu_seconds
from tests.cluster.api_server import ApiServer
from tests.cluster.redis_servers import RedisServer
from tests.model.examples import manifest
from tests.operator.conftest import install_crd
from tests.operator.namespace import Namespace, eventually, wait_until_settled
from tests.operator.operator_process import OperatorProcess, running_operator

ROUNDS = 1
CONSUMERS = 500
SECONDS = 45
WAKES = 10
TIMEOUT_SECONDS = 240
ACTIVE_PER_SECOND = 100
"""Streams that get an entry per second while all StreamConsumers have pods."""

OPERATOR_COMMANDS = ("xinfo|groups", "xlen", "xpending", "eval", "xread", "hello", "client|setinfo", "select")
"""Commands that only the operator sends in this workload."""

HEAD = [
    "phase",
    "s",
    "Redis commands per second of the operator",
    "max connections",
    "operator CPU, share of one core",
    "MiB",
]


def measure(number: int) -> Section:  # noqa: ARG001 - the steps run once, in a fixed order
    """Create all StreamConsumers, scale them to zero, wake some one by one, wake all, and keep them busy."""
    with ApiServer() as api, RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        install_crd(api)
        with running_operator(api.kubeconfig, Path(folder)) as operator:
            return _Measurement(Namespace(api, "default"), server, operator).section()


class _Measurement:
    def __init__(self, namespace: Namespace, server: RedisServer, operator: OperatorProcess) -> None:
        self.namespace, self.operator = namespace, operator
        self.server = server
        self.redis: Any = Redis(host=server.host, port=server.port, protocol=2)
        self.rows: list[list[str]] = []
        self.max_connections = 0

    def section(self) -> Section:
        self._step("create all, until all are at zero pods", self._create)
        self._step("all at zero pods", lambda: time.sleep(SECONDS))
        woken = [self._wake_one(number) for number in range(WAKES)]
        self._step(f"{CONSUMERS - WAKES} woken together, until all have a pod", self._wake_all)
        self._step(f"all awake, {ACTIVE_PER_SECOND} streams active per second", self._process_entries)
        goals = [
            Goal("connections of the operator to Redis", "at most", 4, self.max_connections, 0),
            Goal("median s from an entry at zero pods to a Deployment with a replica", "at most", 0.2, _median(woken)),
        ]
        note = (
            f"With all at zero pods, an entry in one of {CONSUMERS} streams makes its Deployment request a pod after "
            f"{_median(woken):.2f} s (maximum {max(woken):.2f} s, {WAKES} times)."
        )
        facts = (
            f"{CONSUMERS} StreamConsumers, each with its own stream, `autoscaling` at its defaults; no pods; etcd, API "
            "server and Redis on the same cores."
        )
        return Section("scale_to_zero", facts, HEAD, self.rows, goals, [note])

    def _step(self, name: str, action: Callable[[], object]) -> None:
        wait_until_settled(self.namespace, 2)
        commands, cpu, began = self._count_commands(), cpu_seconds(self.operator.pid), time.monotonic()
        with self._sample_connections() as samples:
            action()
        seconds = time.monotonic() - began
        share = (cpu_seconds(self.operator.pid) - cpu) / seconds
        rate = (self._count_commands() - commands) / seconds
        resident = self.operator.resident_mebibytes()
        self.max_connections = max(self.max_connections, *samples)
        self.rows.append([name, f"{seconds:.1f}", f"{rate:.0f}", str(max(samples)), f"{share:.1%}", f"{resident:.0f}"])

    def _create(self) -> None:
        url = f"redis://{self.server.host}:{self.server.port}/0"
        items = [manifest(name, self.namespace.name, redis={"url": url}, stream=name, autoscaling={}) for name in NAMES]
        manifest_list = {"apiVersion": "v1", "kind": "List", "items": items}
        self.namespace.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest_list))
        eventually(self._check_scaled_to_zero, TIMEOUT_SECONDS, pause=0.5)

    def _check_scaled_to_zero(self) -> None:
        consumers = self.namespace.list_all("StreamConsumer")
        assert [each.get("status", {}).get("desiredReplicas") for each in consumers].count(0) == CONSUMERS
        self._check_blocked_client()

    def _wake_one(self, number: int) -> float:
        """Add an entry to one stream without pods. Returns the seconds until its Deployment requests a pod."""
        began = time.monotonic()
        self.redis.xadd(NAMES[number], {"n": 1})
        eventually(lambda: self._check_pod_requested(NAMES[number]), TIMEOUT_SECONDS, pause=0.005)
        seconds = time.monotonic() - began
        eventually(self._check_blocked_client, TIMEOUT_SECONDS)
        return seconds

    def _check_pod_requested(self, name: str) -> None:
        assert self.namespace.get("Deployment", f"{name}-consumer")["spec"]["replicas"] == 1

    def _check_all_pods_requested(self) -> None:
        assert [each["spec"]["replicas"] for each in self.namespace.list_all("Deployment")].count(1) == CONSUMERS

    def _check_blocked_client(self) -> None:
        assert self.redis.info("clients")["blocked_clients"] == 1

    def _wake_all(self) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for name in NAMES[WAKES:]:
            pipeline.xadd(name, {"n": 1})
        pipeline.execute()
        eventually(self._check_all_pods_requested, TIMEOUT_SECONDS, pause=0.2)

    def _process_entries(self) -> None:
        """Add, read and acknowledge entries, as pods do."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for begin in range(0, CONSUMERS, ACTIVE_PER_SECOND):
                self._process_once(NAMES[begin : begin + ACTIVE_PER_SECOND])
                time.sleep(1)

    def _process_once(self, streams: list[str]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for name in streams:
            pipeline.xadd(name, {"n": 1})
            pipeline.xreadgroup("billing", "pod", {name: ">"}, count=10)
        for name, [[_, entries]] in zip(streams, pipeline.execute()[1::2], strict=True):
            pipeline.xack(name, "billing", *[message_id for message_id, _ in entries])
        pipeline.execute()

    def _count_commands(self) -> int:
        stats = self.redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in OPERATOR_COMMANDS)

    @contextmanager
    def _sample_connections(self) -> Iterator[list[int]]:
        """Sample the number of connections of the operator every 0.2 s."""
        samples, done = [0], threading.Event()

        def sample() -> None:
            while not done.wait(0.2):
                samples.append(sum(client["cmd"] in OPERATOR_COMMANDS for client in self.redis.client_list()))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()


NAMES = [f"orders-{number}" for number in range(CONSUMERS)]


def _median(values: list[float]) -> float:
    return statistics.median(values)
