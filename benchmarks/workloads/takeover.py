"""Workload: kill -9 of a pod with 100 pending entries. Measures the time until another pod has started them."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import redis

from benchmarks.contenders.harness import GROUP
from benchmarks.figures import percentile
from benchmarks.pods import Pod
from benchmarks.results import Goal, Section
from benchmarks.runs import connect, fill, reset_server
from tests.cluster.errors import BenchError
from tests.cluster.redis_servers import RedisServer
from tests.cluster.runs import wait_until

ROUNDS = 5
PAIRS = 4
"""Concurrent streams, each with a pod that is killed and its peer."""
PENDING = 100
READ_TIMEOUT = 20.0
TIMEOUT_SECONDS = 120.0

HEAD = ["kills", "entries held", "p50 s", "p99 s", "max s", "p99 of the first entry s", "started more than once"]


def measure(number: int) -> Section:
    """Kill pods at random moments, several pairs at a time."""
    streams = [f"bench-{pair}" for pair in range(PAIRS)]
    kills: list[_Kill] = []
    with RedisServer() as server, connect(server.url) as client, ThreadPoolExecutor(PAIRS) as threads:
        for _ in range(number):
            reset_server(client, *streams)
            kills += threads.map(lambda stream: _Kill(server.url, stream), streams)
        version = server.version
    delays = [delay for kill in kills for delay in kill.delays]
    row = [
        *(str(len(kills)), str(PENDING)),
        *(f"{percentile(delays, percent):.2f}" for percent in (50, 99, 100)),
        f"{percentile([min(kill.delays) for kill in kills], 99):.2f}",
        str(sum(kill.duplicates for kill in kills)),
    ]
    facts = (
        f"Redis {version} on loopback, delivery at its defaults, from just before the kill to the handler's start in "
        f"the other pod, over all entries of {len(kills)} kills, {PAIRS} at a time."
    )
    goal = Goal("p99 from kill -9 to the start in the other pod", "under", 2.5, percentile(delays, 99), 2, "s")
    return Section("takeover", facts, HEAD, [row], [goal])


class _Kill:
    """Pair of pods, and the delays of the killed pod's entries."""

    def __init__(self, url: str, stream: str) -> None:
        capacity = {"batch_count": str(PENDING), "concurrency": str(PENDING)}
        settings = {"stream": stream, "consumer_group": GROUP, **capacity}
        with connect(url) as client, ExitStack() as stack:
            victim = stack.enter_context(Pod(url, "block", "dies", **settings)).wait_until_started()
            fill(client, PENDING, stream)
            _wait(lambda: _pending(client, stream) == PENDING, READ_TIMEOUT, "the first pod has not read all entries")
            peer = stack.enter_context(Pod(url, "log_start", "lives", **settings)).wait_until_started()
            time.sleep(random.uniform(1, 3))
            killed = victim.kill()
            _wait(lambda: _pending(client, stream) == 0, TIMEOUT_SECONDS, "the second pod has not claimed all entries")
            starts = [line.split() for line in peer.output.read_text().splitlines() if line.startswith("started ")]
        self.delays = [float(at) - killed for _, _, at in starts]
        self.duplicates = len(starts) - len({message_id for _, message_id, _ in starts})


def _pending(client: redis.Redis, stream: str) -> int:
    summary: Any = client.xpending(stream, GROUP)
    return int(summary["pending"])


def _wait(condition: Any, timeout: float, problem: str) -> None:
    if not wait_until(condition, timeout, pause=0.05):
        raise BenchError(f"{problem}; waited {timeout:.0f} s")
