"""Races: runs one contender as a child process on a fresh stream, measured by its clock and by Redis' counters.

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
from benchmarks.contenders.course import GROUP, STREAM, Job
from tests.cluster.errors import BenchError

ROOT = Path(__file__).parents[1]
PATIENCE = 120

FILL = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2)) end"

OURS = ("info", "config|resetstat")
"""Commands of the harness, which are not counted. A contender counts its own XPENDING polls."""

Beside = Callable[[redis.Redis], AbstractContextManager[object]]
"""Context manager that is active while the contender runs, such as a producer."""


@dataclass
class Lane:
    """Contender with a job, and the results of its rounds."""

    who: Contender
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
        return [str(self.batch), self.who.told]


def rounds(lanes: Sequence[Lane], number: int, run: Callable[[Lane], object]) -> None:
    """Run all lanes once per round."""
    for each in range(number):
        for lane in lanes:
            run(lane)
            said = f"{lane.who.name} at {lane.batch}: {lane.per_second[-1]:,.0f}/s, {lane.cpu[-1]:.1f} µs"
            print(f"round {each + 1}: {said}", file=sys.stderr, flush=True)


def race(lane: Lane, url: str, *, handler: Any = "noop") -> dict[str, Any]:
    """Run the contender on a complete backlog. Returns the contender's result."""
    with connected(url) as client:
        fresh(client)
        fill(client, lane.count, entry=lane.who.entry)
        return _run(lane, client, Job(url, lane.count, lane.batch, lane.concurrency, handler), nullcontext())


def live(lane: Lane, url: str, producer: Beside, *, skip: int) -> dict[str, Any]:
    """Run the contender while a producer adds entries. Returns the contender's result."""
    with connected(url) as client:
        fresh(client)
        job = Job(url, lane.count, lane.batch, lane.concurrency, "stamp", skip)
        return _run(lane, client, job, producer(client))


def connected(url: str) -> redis.Redis:
    """Return a client with a long timeout. The server needs more than redis-py's 5 s to create a million entries."""
    return redis.Redis.from_url(url, socket_timeout=PATIENCE)


def fresh(client: redis.Redis, *streams: str) -> None:
    """Flush the server and create a group on each stream."""
    client.flushall()
    for stream in streams or (STREAM,):
        client.xgroup_create(stream, GROUP, "0", mkstream=True)


def fill(client: redis.Redis, count: int, stream: str = STREAM, entry: dict[str, str] = ENTRY) -> None:
    """Add `count` entries by a script in the server. A client would take ten times as long."""
    fields = [each for pair in entry.items() for each in pair]
    for begin in range(0, count, 10_000):
        client.eval(FILL, 1, stream, min(10_000, count - begin), *fields)


def calls(client: redis.Redis) -> int:
    """Return the number of commands since the last reset of the counters, including commands inside scripts."""
    stats: Any = client.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name.removeprefix("cmdstat_") not in OURS)


def _run(lane: Lane, client: redis.Redis, job: Job, beside: AbstractContextManager[object]) -> dict[str, Any]:
    client.config_resetstat()
    environment = {**os.environ, **lane.who.environment}
    child = subprocess.Popen(
        lane.who.command(job), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        with beside:
            said, complained = child.communicate(timeout=PATIENCE)
    except BaseException:
        child.kill()
        said, complained = child.communicate()
        print(f"output of {lane.who.name}:\n{(said + complained)[-3000:]}", file=sys.stderr)
        raise
    if child.returncode:
        raise BenchError(f"{lane.who.name} exited with {child.returncode}; its output:\n{(said + complained)[-3000:]}")
    result: dict[str, Any] = json.loads(next(line for line in said.splitlines() if '"handlers_seconds"' in line))
    _note(lane, result, calls(client))
    found: Any = client.xpending(STREAM, GROUP)
    if found["pending"]:
        raise BenchError(f"{lane.who.name}: {found['pending']} entries are still pending; each must be acknowledged")
    return result


def _note(lane: Lane, result: dict[str, Any], commands: int) -> None:
    measured = len(result["delays"] or ()) or lane.count
    lane.per_second.append(measured / result["seconds"])
    lane.cpu.append(result["cpu_seconds"] / measured * 1e6)
    lane.commands.append((commands - result["polls"]) / lane.count)
    lane.mebibytes.append(result["mebibytes"])
    lane.busy.append(result.get("handlers_seconds", 0) / lane.concurrency / result["seconds"])
    lane.delays.append(result["delays"] or [])
