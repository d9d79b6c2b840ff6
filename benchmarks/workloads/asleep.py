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
from tests.operator.operators import OperatorProcess, running_operator
from tests.operator.places import Namespace, eventually, wait_until_settled

ROUNDS = 1
CONSUMERS = 500
SECONDS = 45
WAKES = 10
TIMEOUT_SECONDS = 240
ACTIVE_PER_SECOND = 100
"""Streams in which something happens, while all are awake."""

OPERATOR_COMMANDS = ("xinfo|groups", "xlen", "xpending", "eval", "xread", "hello", "client|setinfo", "select")
"""What only the operator asks here."""

HEAD = [
    "phase",
    "s",
    "Redis commands per second of the operator",
    "max connections",
    "operator CPU, share of one core",
    "MiB",
]


def measure(number: int) -> Section:  # noqa: ARG001 - the steps run once, in a fixed order
    """Create all StreamConsumers, let them sleep, wake single ones, wake all, and keep them busy."""
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
        woken = [self._wake_one(each) for each in range(WAKES)]
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
        return Section("asleep", facts, HEAD, self.rows, goals, [note])

    def _step(self, name: str, action: Callable[[], object]) -> None:
        wait_until_settled(self.namespace, 2)
        asked, cpu, began = self._count_commands(), cpu_seconds(self.operator.pid), time.monotonic()
        with self._sample_connections() as most:
            action()
        seconds = time.monotonic() - began
        share = (cpu_seconds(self.operator.pid) - cpu) / seconds
        rate = (self._count_commands() - asked) / seconds
        resident = self.operator.resident_mebibytes()
        self.max_connections = max(self.max_connections, *most)
        self.rows.append([name, f"{seconds:.1f}", f"{rate:.0f}", str(max(most)), f"{share:.1%}", f"{resident:.0f}"])

    def _create(self) -> None:
        url = f"redis://{self.server.host}:{self.server.port}/0"
        items = [manifest(name, self.namespace.name, redis={"url": url}, stream=name, autoscaling={}) for name in NAMES]
        listed = {"apiVersion": "v1", "kind": "List", "items": items}
        self.namespace.cluster.kubectl("create", "-f", "-", input=json.dumps(listed))
        eventually(self._check_scaled_to_zero, TIMEOUT_SECONDS, pause=0.5)

    def _check_scaled_to_zero(self) -> None:
        told = [each.get("status", {}).get("desiredReplicas") for each in self.namespace.list_all("StreamConsumer")]
        assert told.count(0) == CONSUMERS
        self._check_blocked_client()

    def _wake_one(self, number: int) -> float:
        """One of those that sleep: seconds until its Deployment asks for a pod."""
        began = time.monotonic()
        self.redis.xadd(NAMES[number], {"n": 1})

        def asked_for() -> None:
            assert self.namespace.get("Deployment", f"{NAMES[number]}-consumer")["spec"]["replicas"] == 1

        eventually(asked_for, TIMEOUT_SECONDS, pause=0.005)
        seconds = time.monotonic() - began
        eventually(self._check_blocked_client, TIMEOUT_SECONDS)
        return seconds

    def _check_blocked_client(self) -> None:
        assert self.redis.info("clients")["blocked_clients"] == 1

    def _wake_all(self) -> None:
        together = self.redis.pipeline(transaction=False)
        for name in NAMES[WAKES:]:
            together.xadd(name, {"n": 1})
        together.execute()

        def all_asked_for() -> None:
            assert [each["spec"]["replicas"] for each in self.namespace.list_all("Deployment")].count(1) == CONSUMERS

        eventually(all_asked_for, TIMEOUT_SECONDS, pause=0.2)

    def _process_entries(self) -> None:
        """Entries come, are read and acknowledged, as by pods."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for begin in range(0, CONSUMERS, ACTIVE_PER_SECOND):
                self._process_once(NAMES[begin : begin + ACTIVE_PER_SECOND])
                time.sleep(1)

    def _process_once(self, streams: list[str]) -> None:
        together = self.redis.pipeline(transaction=False)
        for name in streams:
            together.xadd(name, {"n": 1})
            together.xreadgroup("billing", "pod", {name: ">"}, count=10)
        for name, [[_, entries]] in zip(streams, together.execute()[1::2], strict=True):
            together.xack(name, "billing", *[message_id for message_id, _ in entries])
        together.execute()

    def _count_commands(self) -> int:
        stats = self.redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in OPERATOR_COMMANDS)

    @contextmanager
    def _sample_connections(self) -> Iterator[list[int]]:
        """How many the operator had, looked at now and then."""
        most, done = [0], threading.Event()

        def look() -> None:
            while not done.wait(0.2):
                most.append(sum(each["cmd"] in OPERATOR_COMMANDS for each in self.redis.client_list()))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield most
        finally:
            done.set()
            thread.join()


NAMES = [f"orders-{number}" for number in range(CONSUMERS)]


def _median(values: list[float]) -> float:
    return statistics.median(values)
