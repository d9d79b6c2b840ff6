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
from tests.operator.conftest import define
from tests.operator.operators import OperatorProcess, running
from tests.operator.places import Place, eventually, settled

ROUNDS = 1
MANY = 500
SECONDS = 45
WAKES = 10
PATIENCE = 240
TOUCHED_A_SECOND = 100
"""Number of streams per second that get an entry while all StreamConsumers have pods."""

LOOKS = ("xinfo|groups", "xlen", "xpending", "eval", "xread", "hello", "client|setinfo", "select")
"""Commands that only the operator sends in this workload."""

HEAD = ["what", "s", "commands/s of the operator at Redis", "most connections", "operator CPU, of one core", "MiB"]


def measure(number: int) -> Section:  # noqa: ARG001 - the steps run once, in a fixed order
    """Create all StreamConsumers, let them sleep, wake single ones, wake all, and keep them busy."""
    with ApiServer() as api, RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        define(api)
        with running(api.kubeconfig, Path(folder)) as operator:
            return _Course(Place(api, "default"), server, operator).section()


class _Course:
    def __init__(self, place: Place, server: RedisServer, operator: OperatorProcess) -> None:
        self.place, self.operator = place, operator
        self.server = server
        self.redis: Any = Redis(host=server.host, port=server.port, protocol=2)
        self.rows: list[list[str]] = []
        self.most_connections = 0

    def section(self) -> Section:
        self._step("made, until all sleep", self._make)
        self._step("asleep", lambda: time.sleep(SECONDS))
        woken = [self._woken(each) for each in range(WAKES)]
        self._step(f"{MANY - WAKES} woken at once, until all have a pod", self._wake_all)
        self._step(f"awake, something happens in {TOUCHED_A_SECOND} of them a second", self._busy)
        goals = [
            Goal("connections of the operator to Redis", "at most", 4, self.most_connections, 0),
            Goal("s from an entry at zero to a Deployment that asks for a pod, median", "at most", 0.2, _median(woken)),
        ]
        note = (
            f"An entry at zero, in one of {MANY} streams: a pod is asked for after {_median(woken):.2f} s, at worst "
            f"{max(woken):.2f} s ({WAKES} times)."
        )
        facts = (
            f"{MANY} StreamConsumers, each with a stream of its own, `autoscaling` at its defaults; no pods; etcd, API "
            "server and Redis on the same cores."
        )
        return Section("asleep", facts, HEAD, self.rows, goals, [note])

    def _step(self, what: str, act: Callable[[], object]) -> None:
        settled(self.place, 2)
        asked, cpu, began = self._asked(), cpu_seconds(self.operator.pid), time.monotonic()
        with self._connections() as most:
            act()
        seconds = time.monotonic() - began
        share = (cpu_seconds(self.operator.pid) - cpu) / seconds
        rate = (self._asked() - asked) / seconds
        resident = self.operator.resident_mebibytes()
        self.most_connections = max(self.most_connections, *most)
        self.rows.append([what, f"{seconds:.1f}", f"{rate:.0f}", str(max(most)), f"{share:.1%}", f"{resident:.0f}"])

    def _make(self) -> None:
        url = f"redis://{self.server.host}:{self.server.port}/0"
        items = [
            manifest(name, self.place.namespace, redis={"url": url}, stream=name, autoscaling={}) for name in NAMES
        ]
        listed = {"apiVersion": "v1", "kind": "List", "items": items}
        self.place.cluster.kubectl("create", "-f", "-", input=json.dumps(listed))
        eventually(self._all_sleep, PATIENCE, pause=0.5)

    def _all_sleep(self) -> None:
        told = [each.get("status", {}).get("desiredReplicas") for each in self.place.every("StreamConsumer")]
        assert told.count(0) == MANY
        self._somebody_waits()

    def _woken(self, number: int) -> float:
        """Wake one StreamConsumer. Returns the seconds until its Deployment requests a pod."""
        began = time.monotonic()
        self.redis.xadd(NAMES[number], {"n": 1})

        def asked_for() -> None:
            assert self.place.get("Deployment", f"{NAMES[number]}-consumer")["spec"]["replicas"] == 1

        eventually(asked_for, PATIENCE, pause=0.005)
        seconds = time.monotonic() - began
        eventually(self._somebody_waits, PATIENCE)
        return seconds

    def _somebody_waits(self) -> None:
        assert self.redis.info("clients")["blocked_clients"] == 1

    def _wake_all(self) -> None:
        together = self.redis.pipeline(transaction=False)
        for name in NAMES[WAKES:]:
            together.xadd(name, {"n": 1})
        together.execute()

        def all_asked_for() -> None:
            assert [each["spec"]["replicas"] for each in self.place.every("Deployment")].count(1) == MANY

        eventually(all_asked_for, PATIENCE, pause=0.2)

    def _busy(self) -> None:
        """Add, read and acknowledge entries, as producers and pods do."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for begin in range(0, MANY, TOUCHED_A_SECOND):
                self._touch(NAMES[begin : begin + TOUCHED_A_SECOND])
                time.sleep(1)

    def _touch(self, streams: list[str]) -> None:
        together = self.redis.pipeline(transaction=False)
        for name in streams:
            together.xadd(name, {"n": 1})
            together.xreadgroup("billing", "pod", {name: ">"}, count=10)
        for name, [[_, entries]] in zip(streams, together.execute()[1::2], strict=True):
            together.xack(name, "billing", *[message_id for message_id, _ in entries])
        together.execute()

    def _asked(self) -> int:
        stats = self.redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in LOOKS)

    @contextmanager
    def _connections(self) -> Iterator[list[int]]:
        """Sample the number of the operator's connections."""
        most, done = [0], threading.Event()

        def look() -> None:
            while not done.wait(0.2):
                most.append(sum(each["cmd"] in LOOKS for each in self.redis.client_list()))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield most
        finally:
            done.set()
            thread.join()


NAMES = [f"orders-{number}" for number in range(MANY)]


def _median(values: list[float]) -> float:
    return statistics.median(values)
