"""Workload: the cost of idle pods for Redis and the node."""

import time
from contextlib import ExitStack
from typing import Any

from benchmarks.contenders.harness import GROUP, STREAM
from benchmarks.contenders.harness import peak as resident
from benchmarks.pods import Pod
from benchmarks.results import Goal, Section
from benchmarks.runs import HARNESS_COMMANDS, connect, count_commands, reset_server
from tests.cluster.redis_servers import RedisServer

ROUNDS = 1
SECONDS = 30
WARMUP_SECONDS = 3.0
"""Wait before the measurement, so that the cost of the start is not included."""
PODS = (1, 4)
"""Sizes of two groups on separate servers. Their difference is the cost of additional pods."""

HEAD = ["pods in the group", "commands per second", "commands by name", "CPU ms per second and pod", "peak MiB per pod"]


def measure(number: int) -> Section:
    """Measure both groups at the same time. More rounds extend the measured time."""
    with ExitStack() as stack:
        groups = [_Group(stack, pods) for pods in PODS]
        time.sleep(WARMUP_SECONDS)
        began = time.monotonic()
        for group in groups:
            group.begin()
        time.sleep(SECONDS * number)
        rows = [group.end(time.monotonic() - began) for group in groups]
        version = groups[0].server.version
    few, many = (group.per_second for group in groups)
    pod = (many - few) / (PODS[1] - PODS[0])
    goals = [
        Goal("commands per second for each additional pod", "at most", 0.3, pod),
        Goal("commands per second for the group's liveness checks", "at most", 1, few - pod),
    ]
    facts = f"Redis {version} on loopback, pods at their defaults, {SECONDS * number} s without entries."
    return Section("idle", facts, HEAD, rows, goals)


class _Group:
    def __init__(self, stack: ExitStack, size: int) -> None:
        self.per_second = 0.0
        self.server = stack.enter_context(RedisServer())
        self._client = stack.enter_context(connect(self.server.url))
        reset_server(self._client)
        settings = {"stream": STREAM, "consumer_group": GROUP}
        self._pods = [
            stack.enter_context(Pod(self.server.url, "noop", f"pod-{number}", **settings)) for number in range(size)
        ]
        for pod in self._pods:
            pod.wait_until_started()

    def begin(self) -> None:
        self._client.config_resetstat()
        self._cpu = sum(pod.cpu_seconds() for pod in self._pods)

    def end(self, seconds: float) -> list[str]:
        cpu = (sum(pod.cpu_seconds() for pod in self._pods) - self._cpu) / seconds / len(self._pods)
        self.per_second = count_commands(self._client) / seconds
        memory = max(resident(pod.process.pid) for pod in self._pods)
        return [
            str(len(self._pods)),
            f"{self.per_second:.2f}",
            self._command_counts(),
            f"{cpu * 1000:.1f}",
            f"{memory:.0f}",
        ]

    def _command_counts(self) -> str:
        stats: Any = self._client.info("commandstats")
        counts = {name.removeprefix("cmdstat_"): command["calls"] for name, command in stats.items()}
        ranked = sorted(counts.items(), key=lambda item: -item[1])
        return ", ".join(
            f"{name.upper().replace('|', ' ')} {count}" for name, count in ranked if name not in HARNESS_COMMANDS
        )
