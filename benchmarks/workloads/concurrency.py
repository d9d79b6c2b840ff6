"""Workload: 100 concurrent handlers that wait 10 ms each. The ideal is 10,000 messages per second."""

import statistics

from benchmarks.contenders import FASTSTREAM, SEMAPHORE, STREAMCONSUMER, TASKIQ, TIMERS
from benchmarks.contenders.harness import WAIT_SECONDS
from benchmarks.figures import median, ratio, rounds_text
from benchmarks.results import Goal, Section
from benchmarks.runs import Lane, run_backlog, run_rounds
from tests.cluster.redis_servers import RedisServer

ROUNDS = 3
CONCURRENCY = BATCH = 100
IDEAL = CONCURRENCY / WAIT_SECONDS
ENTRIES, ENTRIES_UNBATCHED = 30_000, 6_000

HEAD = [
    *("batch", "contender", "messages per second", "share of the ideal", "relative to timers only", "slots busy"),
    *("CPU µs per message", "commands per message", "peak MiB"),
]


def measure(number: int) -> Section:
    """Measure from the start of the first handler to the last acknowledgement."""
    lanes = [
        Lane(STREAMCONSUMER, ENTRIES, BATCH, CONCURRENCY),
        Lane(TIMERS, ENTRIES_UNBATCHED, BATCH, CONCURRENCY),
        Lane(SEMAPHORE, ENTRIES, BATCH, CONCURRENCY),
        *(Lane(contender, ENTRIES_UNBATCHED, BATCH, CONCURRENCY) for contender in (FASTSTREAM, TASKIQ)),
    ]
    with RedisServer() as server:
        run_rounds(lanes, number, lambda lane: run_backlog(lane, server.url, handler="wait"))
        facts = f"Redis {server.version} on loopback, {CONCURRENCY} at the same time, {rounds_text(number)}."
    own, timers = lanes[0], lanes[1]
    ideal = statistics.median(own.per_second) / IDEAL * 100
    goals = [
        Goal("share of the ideal 10,000 per second", "at least", 95, ideal, 1, "%"),
        Goal(
            "throughput relative to timers only",
            "at least",
            95,
            ratio(own.per_second, timers.per_second) * 100,
            1,
            "%",
        ),
    ]
    return Section("concurrency", facts, HEAD, [_row(lane, timers) for lane in lanes], goals)


def _row(lane: Lane, timers: Lane) -> list[str]:
    return [
        *lane.cells(),
        median(lane.per_second),
        f"{statistics.median(lane.per_second) / IDEAL:.1%}",
        f"{ratio(lane.per_second, timers.per_second):.2f}",
        f"{statistics.median(lane.busy):.1%}",
        f"{statistics.median(lane.cpu):.1f}",
        f"{statistics.median(lane.commands):.3f}",
        f"{statistics.median(lane.mebibytes):.0f}",
    ]
