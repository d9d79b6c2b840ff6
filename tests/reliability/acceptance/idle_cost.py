"""Counts the commands that idle pods send to the server."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.results import table
from tests.reliability.acceptance.group import Group
from tests.reliability.fork_server import ForkServer

PODS = (1, 3, 20)
WARM_UP_SECONDS = 10.0
GROUP_TARGET, POD_TARGET = 1.0, 0.05
"""Maximum number of commands per second: for a group, and for each of its pods in addition."""

_OWN_COMMANDS = {"info", "config|resetstat", "ping", "client|setinfo"}


def measure_idle_cost(seconds: float, folder: Path) -> tuple[str, bool]:
    """Count the commands of idle groups for `seconds` seconds. Returns the report, and True if they keep the target."""
    with ForkServer(shortens_pauses=False) as fork_server, ThreadPoolExecutor(len(PODS)) as pool:
        counts = list(pool.map(lambda pods: _count_commands(fork_server, folder / f"idle-{pods}", pods, seconds), PODS))
    per_second = [sum(calls.values()) / seconds for calls in counts]
    per_pod = (per_second[-1] - per_second[0]) / (PODS[-1] - PODS[0])
    per_group = per_second[0] - per_pod
    rows = []
    is_met = True
    for pods, total, calls in zip(PODS, per_second, counts, strict=True):
        limit = GROUP_TARGET + POD_TARGET * pods
        is_met &= total <= limit
        names = ", ".join(f"{name.upper().replace('|', ' ')} {number}" for name, number in calls.most_common())
        rows.append([str(pods), f"{total:.2f}", f"{limit:.2f}", names, "yes" if total <= limit else "**no**"])
    head = ["idle pods", "commands per second", "at most", f"commands in {seconds:.0f} s", "met"]
    facts = (
        f"{per_group:.2f} commands per second for the group, and {per_pod:.3f} for each pod; scripts' commands included"
    )
    return f"{facts}\n\n{table(head, rows)}", is_met


def _count_commands(fork_server: ForkServer, folder: Path, pods: int, seconds: float) -> Counter[str]:
    with Group(fork_server, folder) as group:
        for number in range(pods):
            group.start_pod(f"pod-{number}")
        group.wait(lambda: group.blocked_reads() == pods, "the pods do not wait for messages")
        time.sleep(WARM_UP_SECONDS)
        group.client.config_resetstat()
        time.sleep(seconds)
        stats: Any = group.client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(command["calls"]) for name, command in stats.items()}
    return Counter({name: number for name, number in calls.items() if name not in _OWN_COMMANDS})
