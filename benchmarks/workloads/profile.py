"""Workload: CPU profile of the processor by sampling, and the cost of single steps."""

import sys
from collections import Counter
from typing import Any

import redis

from benchmarks.contenders import SAMPLED
from benchmarks.micro import measure_steps
from benchmarks.results import Section, table
from benchmarks.runs import Lane, connect, run_backlog
from tests.cluster.redis_servers import RedisServer

ROUNDS = 1
ENTRIES = {100: 400_000, 10: 200_000, 1: 40_000}
"""Number of entries per batch size. With a batch size of 1, each message costs a round trip, as at a low rate."""
MIN_SHARE = 0.015
"""Functions with a smaller share in every run are summed up in one row."""

HEAD = [f"{batch} per read" for batch in ENTRIES]


def measure(number: int) -> Section:
    """Profile the same pod with three batch counts. More rounds lengthen the backlog."""
    with RedisServer() as server, connect(server.url) as client:
        runs = [_Run(client, Lane(SAMPLED, ENTRIES[batch] * number, batch), server.url) for batch in ENTRIES]
        facts = f"Redis {server.version} on loopback, a backlog, one run each; microseconds per message."
    largest, _, smallest = runs
    trip = (smallest.cpu - largest.cpu) / (1 / 1 - 1 / 100)
    rows = [
        ["**time per message**", *(f"**{run.wall:.2f}**" for run in runs)],
        ["time in Redis: XREADGROUP, XACK", *(f"{run.server:.2f}" for run in runs)],
        ["waiting for Redis and the kernel", *(f"{max(0, run.wall - run.cpu):.2f}" for run in runs)],
        ["CPU of the pod", *(f"{run.cpu:.2f}" for run in runs)],
        ["… in the kernel", *(f"{run.system:.2f}" for run in runs)],
        ["… for round trips", *(f"{trip / run.batch:.2f}" for run in runs)],
    ]
    functions = table(["CPU of the pod by function, including library calls", *HEAD], _functions(runs))
    steps = [[name, f"{cost:.2f}"] for name, cost in measure_steps()]
    closing = [functions, table(["single steps, each in its own loop, in batches of 100", "µs per message"], steps)]
    return Section("profile", facts, ["", *HEAD], rows, closing=closing)


class _Run:
    """Profiled run. Its times are microseconds per message."""

    def __init__(self, client: redis.Redis, lane: Lane, url: str) -> None:
        result = run_backlog(lane, url)
        self.batch = lane.batch
        self.wall = result["seconds"] / lane.count * 1e6
        self.cpu, self.system = lane.cpu[-1], result["system_seconds"] / lane.count * 1e6
        stats: Any = client.info("commandstats")
        self.server = sum(stats[f"cmdstat_{name}"]["usec"] for name in ("xreadgroup", "xack")) / lane.count
        samples: dict[str, int] = result["samples"]
        self.samples = sum(samples.values())
        self.functions: Counter[str] = Counter()
        self.libraries: dict[str, Counter[str]] = {}
        for name, times in samples.items():
            function, _, library = name.partition("|")
            self.functions[function] += times
            if library:
                self.libraries.setdefault(function, Counter())[library] += times
        print(
            f"{lane.contender.name} at {lane.batch}: {self.cpu:.1f} µs, {self.samples} samples",
            file=sys.stderr,
            flush=True,
        )

    def microseconds(self, function: str) -> float:
        return self.functions[function] / self.samples * self.cpu


def _functions(runs: list[_Run]) -> list[list[str]]:
    """Return a row per function, ordered by its cost at 100 entries per read."""
    names = {name for run in runs for name in run.functions}
    shown = [name for name in names if any(run.microseconds(name) >= MIN_SHARE * run.cpu for run in runs)]
    shown.sort(key=lambda name: [-run.microseconds(name) for run in runs])
    rows = [[_function_label(name, runs), *(f"{run.microseconds(name):.2f}" for run in runs)] for name in shown]
    rest = [f"{sum(run.microseconds(name) for name in names.difference(shown)):.2f}" for run in runs]
    return [*rows, ["everything else", *rest]]


def _function_label(name: str, runs: list[_Run]) -> str:
    libraries: Counter[str] = sum((run.libraries.get(name, Counter()) for run in runs), Counter())
    total = sum(run.functions[name] for run in runs)
    main_libraries = [library for library, times in libraries.most_common(2) if times > total * 0.2]
    label = name if ":" not in name else f"`{name}`"
    return f"{label} ({', '.join(main_libraries)})" if main_libraries else label
