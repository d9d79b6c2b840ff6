"""Workload: the throughput with a slow or absent collector, compared with a working one."""

import socket
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.contenders import STREAMCONSUMER
from benchmarks.figures import median, ratio, rounds_text
from benchmarks.otlp_sink import OtlpSink
from benchmarks.results import Goal, Section
from benchmarks.runs import Lane, run_backlog, run_rounds
from tests.cluster.processes import free_port
from tests.cluster.redis_servers import RedisServer

ROUNDS = 3
ENTRIES, BATCH = 200_000, 100
DELAY_SECONDS = 2
MAX_EXTRA_MEBIBYTES = 48
"""Additional MiB compared with no endpoint, including the SDK, as docs/telemetry.md states."""

HEAD = ["collector", "messages per second", "relative to a working collector", "CPU µs per message", "peak MiB"]


def measure(number: int) -> Section:
    """Measure each collector. All messages are sampled, and acknowledged before the clock stops."""
    with RedisServer() as server, OtlpSink() as sink, OtlpSink(DELAY_SECONDS) as late, _black_hole() as hole:
        lanes = {
            "off": Lane(replace(STREAMCONSUMER, label="no endpoint"), ENTRIES, BATCH),
            "working": _lane_for(sink.endpoint, "accepts all spans"),
            "refused": _lane_for(f"http://127.0.0.1:{free_port()}", "refuses connections"),
            "hole": _lane_for(hole, "never replies"),
            "late": _lane_for(late.endpoint, f"replies {DELAY_SECONDS} s late"),
        }
        run_rounds(list(lanes.values()), number, lambda lane: run_backlog(lane, server.url))
        facts = f"Redis {server.version} on loopback, {ENTRIES:,} entries, {BATCH} per read, {rounds_text(number)}."
    rows = [_row(lane, lanes["working"]) for lane in lanes.values()]
    return Section("outages", facts, HEAD, rows, _goals(lanes))


@contextmanager
def _black_hole() -> Iterator[str]:
    """Listen without accepting. The kernel completes connections, and no process reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _lane_for(endpoint: str, label: str) -> Lane:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "always_on"}
    return Lane(replace(STREAMCONSUMER, label=label, environment=environment), ENTRIES, BATCH)


def _row(lane: Lane, reference: Lane) -> list[str]:
    return [
        lane.contender.label,
        median(lane.per_second),
        f"{ratio(lane.per_second, reference.per_second):.2f}",
        f"{statistics.median(lane.cpu):.1f}",
        f"{max(lane.mebibytes):.0f}",
    ]


def _goals(lanes: dict[str, Lane]) -> list[Goal]:
    failing = [lanes[name] for name in ("refused", "hole", "late")]
    speeds = [
        Goal(
            f"messages per second, {lane.contender.label}",
            "at least",
            0.95,
            ratio(lane.per_second, lanes["working"].per_second),
        )
        for lane in failing
    ]
    baseline = statistics.median(lanes["off"].mebibytes)
    extra = max(max(lane.mebibytes) for lane in failing) - baseline
    return [
        *speeds,
        Goal("additional memory compared with no endpoint", "under", MAX_EXTRA_MEBIBYTES, extra, 0, "MiB"),
    ]
