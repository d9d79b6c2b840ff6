"""Workload: XGROUP DESTROY under load, and the cost of the group snapshot."""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.contenders.harness import GROUP, STREAM
from benchmarks.pods import Pod
from benchmarks.results import Section, table
from benchmarks.runs import connect, fill, reset_server
from streamconsumer.processor.consumer import group_snapshot
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, entry_keys, group_key
from tests.cluster.redis_servers import REDIS, VALKEY, RedisServer
from tests.cluster.runs import wait_until

ROUNDS = 1
TRIES, CALLS = 10, 20
PODS, CONCURRENCY = 4, 20
BEFORE_SECONDS, AFTER_SECONDS, TIMEOUT_SECONDS = 25.0, 3.0, 90.0
HANDLER = "benchmarks.lost_group:handle"
LOADS = {
    "200/s, 5 ms, one in 200 takes 20 s": (200, (0.005,) * 199 + (20,)),
    "200/s, 5 ms": (200, (0.005,)),
    "2/s, 5 ms": (2, (0.005,)),
}
HEAD = [
    "server",
    "load",
    "kill -9",
    "produced",
    "run again",
    "in two pods at a time",
    "cancelled",
    "lost",
    "settled after s",
]
COST_HEAD = ["server", "pending", "consumers", "save, µs", "save, skipped, µs", "save, bytes"]


def measure(number: int) -> Section:
    """Measure each load with and without a killed pod."""
    rows, costs = [], []
    for _, flavour in itertools.product(range(number), (REDIS, VALKEY)):
        with RedisServer(flavour=flavour) as server, connect(server.url) as client:
            for load, kill in itertools.product(LOADS, (False, True)):
                run = _Run(server.url, load, kill)
                reset_server(client, run.stream)
                rows.append([flavour.name, *run.run()])
            for pending, names in itertools.product((0, 1000, 10_000), (4, 1000)):
                costs.append([flavour.name, *_snapshot_cost(client, pending, names)])
    facts = (
        f"loopback, {PODS} pods per row with concurrency {CONCURRENCY}, XGROUP DESTROY after {BEFORE_SECONDS:.0f} s; "
        "with kill -9, one pod is killed just before."
    )
    note = "A busy pod saves the snapshot once per second and group, and every other busy pod skips it."
    return Section("lost_group", facts, HEAD, rows, closing=[note, table(COST_HEAD, costs)])


@dataclass
class _Run:
    """Run with one group, which is destroyed under load."""

    url: str
    load: str
    kills_pod: bool

    @property
    def stream(self) -> str:
        return f"lost {self.kills_pod}"

    def run(self) -> list[str]:
        settings = {"stream": self.stream, "consumer_group": GROUP, "concurrency": str(CONCURRENCY)}
        with connect(self.url) as client, ExitStack() as stack:
            pods = [stack.enter_context(Pod(self.url, HANDLER, f"pod-{i}", **settings)) for i in range(PODS)]
            for pod in pods:
                pod.wait_until_started()
            produced = self._produce(client, BEFORE_SECONDS)
            killed = pods[0].kill() if self.kills_pod else None
            client.xgroup_destroy(self.stream, GROUP)
            destroyed = time.monotonic()
            produced += self._produce(client, AFTER_SECONDS)
            wait_until(lambda: self._is_done(client, produced[-1]), TIMEOUT_SECONDS, pause=0.2)
            seconds = time.monotonic() - destroyed
            time.sleep(1)
            event_counts = count_events([pod.output.read_text() for pod in pods], set(produced), killed)
        cells = [len(produced), *(event_counts[name] for name in ("again", "twice", "cancelled", "lost"))]
        return [
            self.load,
            "yes" if self.kills_pod else "no",
            *(f"{cell:,}" for cell in cells),
            f"{seconds:.0f}",
        ]

    def _produce(self, client: redis.Redis, seconds: float) -> list[str]:
        rate, durations = LOADS[self.load]
        began, ids = time.monotonic(), []
        for number in range(int(rate * seconds)):
            time.sleep(max(0, began + number / rate - time.monotonic()))
            added: Any = client.xadd(self.stream, {"seconds": durations[number % len(durations)]})
            ids.append(added.decode())
        return ids

    def _is_done(self, client: redis.Redis, last: str) -> bool:
        groups: Any = client.xinfo_groups(self.stream)
        return bool(groups) and groups[0]["pending"] == 0 and groups[0]["last-delivered-id"].decode() == last


def count_events(outputs: list[str], produced: set[str], killed: float | None) -> Counter[str]:
    """Count the events in the pod logs, in order of time. `killed` is the time at which the first pod was killed."""
    events = [(float(at), pod, event, id_) for pod, text in enumerate(outputs) for at, event, id_ in _events(text)]
    if killed is not None:
        events.append((killed, 0, "killed", ""))
    totals: Counter[str] = Counter()
    running: dict[str, set[int]] = {message_id: set() for message_id in produced}
    ended: set[str] = set()
    for _, pod, event, message_id in sorted(events):
        if event == "started":
            totals["again"] += message_id in ended
            totals["twice"] += bool(running[message_id])
            running[message_id].add(pod)
        elif event == "killed":
            for pods in running.values():
                pods.discard(pod)
        else:
            running[message_id].discard(pod)
            totals["cancelled"] += event == "cancelled"
            if event == "ended":
                ended.add(message_id)
    totals["lost"] = len(produced - ended)
    return totals


def _events(text: str) -> list[list[str]]:
    return [line.split()[1:] for line in text.splitlines() if line.startswith("event ")]


def _snapshot_cost(client: redis.Redis, pending: int, names: int) -> list[str]:
    """Measure the server's time for one save of the snapshot."""
    reset_server(client)
    fill(client, pending)
    for name in (POSTPONED_CONSUMER, *range(names)):
        client.xgroup_createconsumer(STREAM, GROUP, name)
    for number in range(names if pending else 0):
        client.xreadgroup(GROUP, str(number), {STREAM: ">"}, max(1, pending // names))
    keys = [*entry_keys(STREAM, GROUP), group_key(STREAM, GROUP, "last-known")]

    def save(*, is_due: bool) -> None:
        if is_due:
            client.hdel(keys[-1], "at")
        client.eval(group_snapshot.SAVE, len(keys), *keys, GROUP, 0)

    saved = _microseconds(client, "eval", lambda: save(is_due=True))
    skipped = _microseconds(client, "eval", lambda: save(is_due=False))
    size = len(group_snapshot.SAVE) + sum(len(value) for value in client.hvals(keys[-1]))
    cells = [pending, names, saved, skipped, size]
    return [f"{cell:,.0f}" for cell in cells]


def _microseconds(client: redis.Redis, command: str, action: Callable[[], object]) -> float:
    """Return the server's time for one call: the minimum of several tries, because other programs only add time."""
    tries = []
    for _ in range(TRIES):
        client.config_resetstat()
        for _ in range(CALLS):
            action()
        stats: Any = client.info("commandstats")
        tries.append(stats[f"cmdstat_{command}"]["usec"] / CALLS)
    return float(min(tries))
