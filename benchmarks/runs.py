"""Runs of the contenders: each is a child process on a fresh stream, measured by its clock and by Redis' counters.

Rounds are interleaved. Each contender runs once per round, so that a slow minute of the machine affects all contenders.
A run that leaves an entry pending is an error, because each contender must acknowledge all entries.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from benchmarks.contenders import ENTRY, Contender
from benchmarks.contenders.harness import GROUP, STREAM, Job
from tests.cluster.errors import BenchError

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 120

FILL_SCRIPT = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2)) end"

HARNESS_COMMANDS = ("info", "config|resetstat")
"""Commands of the harness that are not counted. Contenders report their XPENDING polls themselves."""

Background = Callable[[redis.Redis], AbstractContextManager[object]]
"""Returns a context that is active while the contender runs, such as a producer."""


@dataclass
class Lane:
    """Contender with a job, and the results of its rounds."""

    contender: Contender
    count: int
    batch: int
    concurrency: int = 1
    per_second: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """CPU microseconds per message of all threads, from the first message to the last acknowledgement."""
    commands: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Share of time in which handlers occupied the `concurrency` slots. Meaningful only for handlers that take time."""
    delays: list[list[float]] = field(default_factory=list)
    """Latency of each message in milliseconds, one list per round."""

    def cells(self) -> list[str]:
        return [str(self.batch), self.contender.label]


def run_rounds(lanes: Sequence[Lane], number: int, run: Callable[[Lane], object]) -> None:
    """Run all lanes once per round, for `number` rounds."""
    for round_number in range(1, number + 1):
        for lane in lanes:
            run(lane)
            result = f"{lane.contender.name} at {lane.batch}: {lane.per_second[-1]:,.0f}/s, {lane.cpu[-1]:.1f} µs"
            print(f"round {round_number}: {result}", file=sys.stderr, flush=True)


def run_backlog(lane: Lane, url: str, *, handler: Any = "noop") -> dict[str, Any]:
    """Fill the stream, then run the contender. Returns its result."""
    with connect(url) as client:
        reset_server(client)
        fill(client, lane.count, entry=lane.contender.entry)
        return _run(lane, client, Job(url, lane.count, lane.batch, lane.concurrency, handler), nullcontext())


def run_live(lane: Lane, url: str, producer: Background, *, skip: int) -> dict[str, Any]:
    """Run the contender while the producer adds entries. Returns its result."""
    with connect(url) as client:
        reset_server(client)
        job = Job(url, lane.count, lane.batch, lane.concurrency, "stamp", skip)
        return _run(lane, client, job, producer(client))


def connect(url: str) -> redis.Redis:
    """Return a client with a timeout that lets the server add a million entries; redis-py's default is 5 s."""
    return redis.Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS)


def reset_server(client: redis.Redis, *streams: str) -> None:
    """Delete all data and create a group on each stream."""
    client.flushall()
    for stream in streams or (STREAM,):
        client.xgroup_create(stream, GROUP, "0", mkstream=True)


def fill(client: redis.Redis, count: int, stream: str = STREAM, entry: dict[str, str] = ENTRY) -> None:
    """Add `count` entries by a script in the server. A client would take ten times as long."""
    fields = [text for pair in entry.items() for text in pair]
    for begin in range(0, count, 10_000):
        client.eval(FILL_SCRIPT, 1, stream, min(10_000, count - begin), *fields)


def count_commands(client: redis.Redis) -> int:
    """Return the number of commands since the counters were reset, including those inside scripts."""
    stats: Any = client.info("commandstats")
    return sum(
        command["calls"] for name, command in stats.items() if name.removeprefix("cmdstat_") not in HARNESS_COMMANDS
    )


def _run(lane: Lane, client: redis.Redis, job: Job, background: AbstractContextManager[object]) -> dict[str, Any]:
    client.config_resetstat()
    environment = {**os.environ, **lane.contender.environment}
    child = subprocess.Popen(
        lane.contender.command(job),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with background:
            output, errors = child.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        child.kill()
        output, errors = child.communicate()
        print(f"output of {lane.contender.name}:\n{(output + errors)[-3000:]}", file=sys.stderr)
        raise
    if child.returncode:
        raise BenchError(
            f"{lane.contender.name} exited with {child.returncode}; its output:\n{(output + errors)[-3000:]}"
        )
    result: dict[str, Any] = json.loads(next(line for line in output.splitlines() if '"handlers_seconds"' in line))
    _record_round(lane, result, count_commands(client))
    summary: Any = client.xpending(STREAM, GROUP)
    if summary["pending"]:
        raise BenchError(
            f"{lane.contender.name}: {summary['pending']} entries are still pending; each must be acknowledged"
        )
    return result


def _record_round(lane: Lane, result: dict[str, Any], commands: int) -> None:
    measured = len(result["delays"] or ()) or lane.count
    lane.per_second.append(measured / result["seconds"])
    lane.cpu.append(result["cpu_seconds"] / measured * 1e6)
    lane.commands.append((commands - result["polls"]) / lane.count)
    lane.mebibytes.append(result["mebibytes"])
    lane.busy.append(result.get("handlers_seconds", 0) / lane.concurrency / result["seconds"])
    lane.delays.append(result["delays"] or [])
