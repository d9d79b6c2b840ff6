"""Counts the commands that idle pods send to the server."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from benchmarks.results import table
from tests.reliability.acceptance.group import Group
from tests.reliability.fork_server import ForkServer

PODS = (1, 3, 20)
WARM_UP_SECONDS = 80.0
"""Time until the reads of an idle consumer block for a minute, and until a pod that does not announce itself counts as
absent."""
GROUP_TARGET, POD_TARGET = 1.0, 0.05
"""Maximum number of commands per second: for a group, and for each of its pods in addition."""

_END = "the count has ended"


@dataclass
class Calls:
    """Commands that a server executed, by name."""

    sent: Counter[str] = field(default_factory=Counter)
    in_scripts: Counter[str] = field(default_factory=Counter)


def measure_idle_cost(seconds: float, folder: Path) -> tuple[str, bool]:
    """Count the commands of idle groups for `seconds` seconds. Returns the report, and True if they keep the target."""
    with ForkServer(shortens_pauses=False) as fork_server, ThreadPoolExecutor(len(PODS)) as pool:
        calls = list(pool.map(lambda pods: _count_calls(fork_server, folder / f"idle-{pods}", pods, seconds), PODS))
    per_second = [each.sent.total() / seconds for each in calls]
    per_pod = (per_second[-1] - per_second[0]) / (PODS[-1] - PODS[0])
    rows, is_met = [], True
    for pods, total, each in zip(PODS, per_second, calls, strict=True):
        limit = GROUP_TARGET + POD_TARGET * pods
        is_met &= total <= limit
        verdict = "yes" if total <= limit else "**no**"
        rows.append([str(pods), f"{total:.2f}", f"{limit:.2f}", verdict, _names(each.sent), _names(each.in_scripts)])
    head = ["idle pods", "commands per second", "at most", "met", f"commands in {seconds:.0f} s", "inside scripts"]
    facts = f"{per_second[0] - per_pod:.2f} commands per second for the group, and {per_pod:.3f} for each pod"
    return f"{facts}\n\n{table(head, rows)}", is_met


def _names(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.most_common()) or "none"


def _count_calls(fork_server: ForkServer, folder: Path, pods: int, seconds: float) -> Calls:
    with Group(fork_server, folder) as group:
        for number in range(pods):
            group.start_pod(f"pod-{number}")
        group.wait(lambda: group.blocked_reads() == pods, "the pods do not wait for messages")
        time.sleep(WARM_UP_SECONDS)
        with Redis.from_url(group.server.url) as ending:
            ending.ping()  # connects before the count starts
            timer = threading.Timer(seconds, ending.echo, (_END,))
            timer.start()
            calls = _monitor_calls(group.client)
            timer.join()
    return calls


def _monitor_calls(client: Redis) -> Calls:
    """Count the commands until the end mark."""
    calls = Calls()
    with client.monitor() as monitor:  # type: ignore[no-untyped-call] # ships no types for it
        while _END not in (command := monitor.next_command())["command"]:
            words = command["command"].upper().split(" ", 2)
            name = " ".join(words[:2] if words[0] in {"CLIENT", "XINFO"} else words[:1])
            (calls.in_scripts if command["client_type"] == "lua" else calls.sent)[name] += 1
    return calls
