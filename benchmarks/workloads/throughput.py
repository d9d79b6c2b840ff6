"""Workload: a backlog and a handler that does nothing. Measures the overhead of each consumer."""

import statistics
import sys

from benchmarks.contenders import FASTSTREAM, NAIVE, PIPELINED, STREAMCONSUMER, TASKIQ
from benchmarks.contenders.goredis import goredis
from benchmarks.figures import median, ratio, rounds_text
from benchmarks.results import Goal, Section
from benchmarks.runs import Lane, run_backlog, run_rounds
from tests.cluster.errors import MissingTool
from tests.cluster.redis_servers import RedisServer

ROUNDS = 5
ENTRIES, ENTRIES_UNBATCHED = 200_000, 5_000
"""Slow contenders get fewer entries, because only rates are compared."""

HEAD = [
    *(
        "batch",
        "contender",
        "messages per second",
        "relative to go-redis",
        "relative to the pipelined loop",
        "relative to the naive loop",
    ),
    *("CPU µs per message", "commands per message", "peak MiB"),
]


def measure(number: int) -> Section:
    """Measure each contender with 10 and with 100 entries per read."""
    lanes, notes = _lanes()
    with RedisServer() as server:
        run_rounds(lanes, number, lambda lane: run_backlog(lane, server.url))
        facts = (
            f"Redis {server.version} on loopback, {ENTRIES:,} entries ({ENTRIES_UNBATCHED:,} for contenders that "
            f"acknowledge each entry separately), {rounds_text(number)}."
        )
    return Section("throughput", facts, HEAD, [_row(lane, lanes) for lane in lanes], _goals(lanes), notes)


def _lanes() -> tuple[list[Lane], list[str]]:
    notes, compiled = [], []
    try:
        compiled = [goredis()]
    except MissingTool as missing:
        notes.append(f"**Without go-redis**: {missing}.")
        print(f"go-redis is left out: {missing}", file=sys.stderr, flush=True)
    lanes = [
        Lane(contender, ENTRIES, batch) for batch in (10, 100) for contender in (STREAMCONSUMER, *compiled, PIPELINED)
    ]
    # These send one XACK per message, so the batch size makes no difference.
    return [*lanes, *(Lane(contender, ENTRIES_UNBATCHED, 100) for contender in (NAIVE, FASTSTREAM, TASKIQ))], notes


def _row(lane: Lane, lanes: list[Lane]) -> list[str]:
    return [
        *lane.cells(),
        median(lane.per_second),
        *(_ratio_to(lane, name, lanes) for name in ("goredis", "pipelined", "naive")),
        f"{statistics.median(lane.cpu):.1f}",
        f"{statistics.median(lane.commands):.3f}",
        f"{statistics.median(lane.mebibytes):.0f}",
    ]


def _ratio_to(lane: Lane, name: str, lanes: list[Lane]) -> str:
    peer = _find(lanes, name, lane.batch)
    return f"{ratio(lane.per_second, peer.per_second):.2f}" if peer else ""


def _find(lanes: list[Lane], name: str, batch: int) -> Lane | None:
    return next((lane for lane in lanes if lane.contender.name == name and lane.batch == batch), None)


def _goals(lanes: list[Lane]) -> list[Goal]:
    goals = []
    for batch, name, bound in ((100, "goredis", 0.8), (100, "faststream", 20), (10, "goredis", 0.4)):
        own, peer = _find(lanes, "streamconsumer", batch), _find(lanes, name, batch)
        if own and peer:
            goal = f"messages per second at {batch} per read, relative to {peer.contender.label.partition(',')[0]}"
            goals.append(Goal(goal, "at least", bound, ratio(own.per_second, peer.per_second)))
    if own := _find(lanes, "streamconsumer", 100):
        goals.append(Goal("commands per message at 100 per read", "at most", 0.02, statistics.median(own.commands), 3))
    return goals
