"""Throughput with a handler that does nothing: what the machinery costs. `make bench` writes RESULTS.md.

Every contender reads the same entries from the same server, each in a process of its own, in turns; what counts is
the ratio within a round, since machines are noisy. Nothing pending may be left after a run.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import redis

from benchmarks.contenders import GROUP, STREAM
from tests.cluster.redis_servers import RedisServer

ROUNDS = 5
RESULTS = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- begin throughput -->", "<!-- end throughput -->"
ENTRY = {"id": "1234567", "item": "a" * 60, "amount": "b" * 40}
"""Three fields, a hundred bytes of payload."""


@dataclass
class Row:
    """One contender at one batch size, and what its rounds gave."""

    name: str
    told: str
    count: int
    batch: int
    per_second: list[float] = field(default_factory=list)
    cpu_microseconds: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)


def rows() -> list[Row]:
    """Slow contenders get fewer entries: what is compared is a rate."""
    return [
        row
        for batch in (10, 100)
        for row in (
            Row("streamconsumer", "StreamConsumer", 100_000, batch),
            Row("pipelined", "bare redis-py loop, XACK and next read in one pipeline", 100_000, batch),
            Row("naive", "bare redis-py loop, XACK for each message", 20_000, batch),
            Row("faststream", "FastStream", 10_000, batch),
        )
    ]


def main() -> None:
    """Race, print the table, and write it down."""
    table = rows()
    with RedisServer() as server:
        for number in range(ROUNDS):
            for row in table:
                run(row, server.url)
                print(f"round {number + 1}: {row.name} at {row.batch}: {row.per_second[-1]:,.0f}/s", file=sys.stderr)
        text = report(table, f"Redis {server.version}")
    print(text)
    write(text)


def run(row: Row, url: str) -> None:
    """One run of one contender on a fresh stream."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        pipeline = client.pipeline(transaction=False)
        for _ in range(row.count):
            pipeline.xadd(STREAM, dict(ENTRY))
        pipeline.execute()
        client.config_resetstat()
        command = [sys.executable, "-m", "benchmarks.contenders", row.name, url, str(row.count), str(row.batch)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        result = json.loads(ran.stdout.splitlines()[-1])
        pending = client.xpending(STREAM, GROUP)["pending"]
        if pending:
            raise RuntimeError(f"{row.name}: {pending} entries are still pending; each must be acknowledged")
        stats = client.info("commandstats")
    commands = sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xreadgroup", "xack", "xautoclaim"))
    row.per_second.append(row.count / result["seconds"])
    row.cpu_microseconds.append(result["cpu_seconds"] / row.count * 1e6)
    row.commands.append(commands / row.count)
    row.megabytes.append(result["megabytes"])


def report(table: list[Row], server: str) -> str:
    """The table, with ratios taken round by round."""
    facts = (
        f"CPython {platform.python_version()}, {server} on loopback, {os.cpu_count()} cores, {ROUNDS} rounds in turns"
    )
    head = ["batch", "who", "messages a second", "to the naive loop", "to the pipelined loop"]
    head += ["CPU µs a message", "commands a message", "peak MiB"]
    lines = [f"{facts}; medians, in brackets the least and the most.", "", line(head), line(["---"] * len(head))]
    for row in table:
        peers = {each.name: each for each in table if each.batch == row.batch}
        cells = [
            str(row.batch),
            row.told,
            f"{statistics.median(row.per_second):,.0f} ({min(row.per_second):,.0f} to {max(row.per_second):,.0f})",
            ratio(row, peers["naive"]),
            ratio(row, peers["pipelined"]),
            f"{statistics.median(row.cpu_microseconds):.1f}",
            f"{statistics.median(row.commands):.3f}",
            f"{statistics.median(row.megabytes):.0f}",
        ]
        lines.append(line(cells))
    return "\n".join(lines)


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def ratio(row: Row, to: Row) -> str:
    return f"{statistics.median(a / b for a, b in zip(row.per_second, to.per_second, strict=True)):.2f}"


def write(text: str) -> None:
    """Put the table between its markers; what people wrote around it stays."""
    before, _, rest = RESULTS.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    RESULTS.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
