"""Workload: 1,000 messages per second. Measures the latency from XADD to the start of the handler, and the cost of a
message if batches shrink to one.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from benchmarks.contenders import FASTSTREAM, PIPELINED, PROTOCOL, STREAMCONSUMER
from benchmarks.figures import median, percentile, rounds_text
from benchmarks.results import Goal, Section
from benchmarks.runs import ROOT, Background, Lane, run_live, run_rounds
from tests.cluster.errors import BenchError
from tests.cluster.redis_servers import RedisServer
from tests.cluster.runs import wait_until

ROUNDS = 3
RATE = 1_000
SKIP, COUNT = 500, 4_500
"""Warm-up messages (0.5 s), and the total number including four measured seconds."""
BATCH = 100

HEAD = ["contender", "p50 ms", "p99 ms", "max ms", "CPU µs per message", "commands per message"]


def measure(number: int) -> Section:
    """Measure each contender with a live producer."""
    lanes = [Lane(contender, COUNT, BATCH) for contender in (STREAMCONSUMER, PROTOCOL, PIPELINED, FASTSTREAM)]
    with RedisServer() as server:
        run_rounds(lanes, number, lambda lane: run_live(lane, server.url, producing(RATE, COUNT), skip=SKIP))
        facts = (
            f"Redis {server.version} on loopback, {RATE:,} messages per second from a separate process, "
            f"{(COUNT - SKIP) / RATE:.0f} s, {rounds_text(number)}."
        )
    own = lanes[0]
    goals = [
        Goal("p99 from XADD to the handler's start", "under", 2, statistics.median(_percentiles(own, 99)), 2, "ms"),
        Goal("CPU per message at 1,000 per second", "under", 150, statistics.median(own.cpu), 0, "µs"),
    ]
    return Section("latency", facts, HEAD, [_row(lane) for lane in lanes], goals)


def producing(rate: int, count: int) -> Background:
    """Return a producer that starts as soon as the contender waits for entries."""

    @contextmanager
    def run_producer(client: redis.Redis) -> Iterator[None]:
        arguments: Any = client.connection_pool.connection_kwargs
        url = f"redis://{arguments['host']}:{arguments['port']}"
        if not wait_until(lambda: client.info("clients")["blocked_clients"] > 0, 15, 0.001):
            raise BenchError("the contender does not wait for entries")
        command = [sys.executable, "-m", "benchmarks.producer", url, str(rate), str(count)]
        with subprocess.Popen(command, cwd=ROOT) as child:
            try:
                yield
            finally:
                child.kill()

    return run_producer


def _percentiles(lane: Lane, percent: float) -> list[float]:
    return [percentile(delays, percent) for delays in lane.delays]


def _row(lane: Lane) -> list[str]:
    return [
        lane.contender.label,
        *(median(_percentiles(lane, percent), 2) for percent in (50, 99, 100)),
        median(lane.cpu),
        f"{statistics.median(lane.commands) - 1:.2f}",  # excludes the producer's XADD
    ]
