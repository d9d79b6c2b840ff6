"""Workload: the throughput with a slow or absent collector, compared with a working one."""

import socket
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.contenders import STREAMCONSUMER
from benchmarks.figures import in_turns, median, ratio
from benchmarks.races import Lane, race, rounds
from benchmarks.results import Goal, Section
from benchmarks.sink import Sink
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer

ROUNDS = 3
ENTRIES, BATCH = 200_000, 100
LATE_SECONDS = 2
MOST_MORE = 48
"""Maximum of additional MiB compared with no endpoint, including the SDK. docs/telemetry.md states this bound."""

HEAD = ["collector", "messages a second", "to one that takes everything", "CPU µs a message", "peak MiB"]


def measure(number: int) -> Section:
    """Measure with all messages sampled. The clock stops after the last acknowledgement."""
    with RedisServer() as server, Sink() as sink, Sink(LATE_SECONDS) as late, _black_hole() as hole:
        lanes = {
            "off": Lane(replace(STREAMCONSUMER, told="no endpoint"), ENTRIES, BATCH),
            "well": _to(sink.endpoint, "takes everything"),
            "refused": _to(f"http://127.0.0.1:{free_port()}", "refuses connections"),
            "hole": _to(hole, "never answers"),
            "late": _to(late.endpoint, f"answers {LATE_SECONDS} s late"),
        }
        rounds(list(lanes.values()), number, lambda lane: race(lane, server.url))
        facts = f"Redis {server.version} on loopback, {ENTRIES:,} entries, {BATCH} a read, {in_turns(number)}."
    rows = [_row(lane, lanes["well"]) for lane in lanes.values()]
    return Section("outages", facts, HEAD, rows, _goals(lanes))


@contextmanager
def _black_hole() -> Iterator[str]:
    """Listen without accepting. The kernel completes connections, and no process reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _to(endpoint: str, told: str) -> Lane:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "always_on"}
    return Lane(replace(STREAMCONSUMER, told=told, environment=environment), ENTRIES, BATCH)


def _row(lane: Lane, well: Lane) -> list[str]:
    return [
        lane.who.told,
        median(lane.per_second),
        f"{ratio(lane.per_second, well.per_second):.2f}",
        f"{statistics.median(lane.cpu):.1f}",
        f"{max(lane.mebibytes):.0f}",
    ]


def _goals(lanes: dict[str, Lane]) -> list[Goal]:
    away = [lanes[name] for name in ("refused", "hole", "late")]
    speeds = [
        Goal(f"messages a second, {each.who.told}", "at least", 0.95, ratio(each.per_second, lanes["well"].per_second))
        for each in away
    ]
    without = statistics.median(lanes["off"].mebibytes)
    more = max(max(each.mebibytes) for each in away) - without
    return [*speeds, Goal("memory more than without an endpoint", "under", MOST_MORE, more, 0, "MiB")]
