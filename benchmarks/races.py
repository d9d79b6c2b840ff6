"""One contender on a fresh stream, as a child process, and what came of it by its own clock and by Redis' counters.

Rounds are interleaved: in each, everybody runs once, so that a slow minute of the machine hits all alike. A run that
leaves an entry pending is an error: whoever does not acknowledge is not in the race.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from benchmarks.contenders import Contender
from benchmarks.contenders.course import GROUP, STREAM, Job

ROOT = Path(__file__).parents[1]
PATIENCE = 120

FILL = """
for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'id', ARGV[2], 'item', ARGV[3], 'amount', ARGV[4]) end
"""
FIELDS = ("1234567", "a" * 60, "b" * 40)
"""Three fields, a hundred bytes of payload and a number."""

OURS = ("info", "config|resetstat")
"""Commands of the harness; its looks at what is pending are counted by whoever takes them."""

Beside = Callable[[redis.Redis], AbstractContextManager[object]]
"""What goes on while the contender runs, such as a producer."""


@dataclass
class Lane:
    """One contender with one job, and what its rounds gave."""

    who: Contender
    count: int
    batch: int
    concurrency: int = 1
    per_second: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Microseconds a message, all threads of the process, from the first message to the last acknowledgement."""
    commands: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    delays: list[list[float]] = field(default_factory=list)
    """Milliseconds of each message, a list for each round."""

    def cells(self) -> list[str]:
        return [str(self.batch), self.who.told]


def rounds(lanes: Sequence[Lane], number: int, run: Callable[[Lane], None]) -> None:
    """Everybody once, again and again."""
    for each in range(number):
        for lane in lanes:
            run(lane)
            said = f"{lane.who.name} at {lane.batch}: {lane.per_second[-1]:,.0f}/s, {lane.cpu[-1]:.1f} µs"
            print(f"round {each + 1}: {said}", file=sys.stderr, flush=True)


def race(lane: Lane, url: str, *, handler: Any = "noop") -> None:
    """The whole backlog is there when the contender starts."""
    with redis.Redis.from_url(url) as client:
        fresh(client)
        fill(client, lane.count)
        _run(lane, client, Job(url, lane.count, lane.batch, lane.concurrency, handler), nullcontext())


def live(lane: Lane, url: str, producer: Beside, *, skip: int) -> None:
    """Entries come while the contender waits for them."""
    with redis.Redis.from_url(url) as client:
        fresh(client)
        job = Job(url, lane.count, lane.batch, lane.concurrency, "stamp", skip)
        _run(lane, client, job, producer(client))


def fresh(client: redis.Redis, *streams: str) -> None:
    """An empty server with a group on each stream."""
    client.flushall()
    for stream in streams or (STREAM,):
        client.xgroup_create(stream, GROUP, "0", mkstream=True)


def fill(client: redis.Redis, count: int, stream: str = STREAM) -> None:
    """Entries, made inside the server: a client would take ten times as long."""
    for begin in range(0, count, 10_000):
        client.eval(FILL, 1, stream, min(10_000, count - begin), *FIELDS)


def calls(client: redis.Redis) -> int:
    """How many commands the server has run since its counters were reset, those inside scripts included."""
    stats: Any = client.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name.removeprefix("cmdstat_") not in OURS)


def _run(lane: Lane, client: redis.Redis, job: Job, beside: AbstractContextManager[object]) -> None:
    client.config_resetstat()
    child = subprocess.Popen(
        lane.who.command(job), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child, beside:
        try:
            said, complained = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
    if child.returncode:
        raise RuntimeError(f"{lane.who.name} ended with {child.returncode}; it said:\n{(said + complained)[-3000:]}")
    _note(lane, json.loads(said.splitlines()[-1]), calls(client))
    found: Any = client.xpending(STREAM, GROUP)
    if found["pending"]:
        raise RuntimeError(f"{lane.who.name}: {found['pending']} entries are still pending; each must be acknowledged")


def _note(lane: Lane, result: dict[str, Any], commands: int) -> None:
    measured = len(result["delays"] or ()) or lane.count
    lane.per_second.append(measured / result["seconds"])
    lane.cpu.append(result["cpu_seconds"] / measured * 1e6)
    lane.commands.append((commands - result["polls"]) / lane.count)
    lane.mebibytes.append(result["mebibytes"])
    lane.delays.append(result["delays"] or [])
