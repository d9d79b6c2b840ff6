"""Measures the takeover of killed pods, and the latency of new messages, while the group has a large backlog."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.figures import percentile
from benchmarks.results import table
from tests.reliability.acceptance.group import STREAM, Group
from tests.reliability.acceptance.takeover import KILL_TARGET_SECONDS
from tests.reliability.fork_server import ForkServer
from tests.reliability.ledger import GROUP

VICTIMS, PEERS = tuple(f"victim-{number}" for number in range(5)), ("pod-b", "pod-c")
CONCURRENCY = 4
BACKLOG_MS, NEW_MESSAGES, NEW_INTERVAL_SECONDS = 100, 200, 0.1
KILL_INTERVAL_SECONDS = 5.0
PAGE = 5000
POSTPONED, SCHEDULE = "~postponed", f"{{{STREAM}}}:{GROUP}:postponed"
FOREIGN = "another-program"


@dataclass(frozen=True)
class Backlog:
    """Entries that are pending before the pods start."""

    name: str
    count: int
    owner: str
    begin: Callable[[Group, list[str]], None]
    """Makes the entries a burden for the pods, which are running."""
    has_new_messages: bool = False


def _make_due(group: Group, ids: list[str]) -> None:
    _schedule(group, ids, time.time())


def _postpone(group: Group, ids: list[str]) -> None:
    _schedule(group, ids, time.time() + 3600)


def _schedule(group: Group, ids: list[str], due_at: float) -> None:
    for page in _pages(ids):
        group.client.zadd(SCHEDULE, dict.fromkeys(page, round(due_at * 1000)))


def _trim(group: Group, ids: list[str]) -> None:
    """Delete the entries from the stream, and make them idle."""
    for page in _pages(ids):
        group.client.xclaim(STREAM, GROUP, FOREIGN, 0, page, idle=3_600_000, justid=True)  # type: ignore[arg-type]
    for page in _pages(ids):
        group.client.xdel(STREAM, *page)


def _pages(ids: list[str]) -> Iterator[list[str]]:
    return (ids[first : first + PAGE] for first in range(0, len(ids), PAGE))


BACKLOGS = (
    Backlog("60,000 due entries, handlers of 100 ms", 60_000, POSTPONED, _make_due, has_new_messages=True),
    Backlog("200,000 trimmed entries", 200_000, FOREIGN, _trim),
    Backlog("200,000 entries of another program", 200_000, FOREIGN, lambda _group, _ids: None),
    Backlog("200,000 postponed entries", 200_000, POSTPONED, _postpone),
)


def measure_backlogs(folder: Path) -> tuple[str, bool]:
    """Kill pods while the group has a backlog. Returns the report, and True if the figures are within their targets."""
    rows, is_met = [], True
    for number, backlog in enumerate(BACKLOGS):
        with (
            ForkServer(shortens_pauses=False) as fork_server,
            Group(fork_server, folder / f"backlog-{number}", CONCURRENCY=str(CONCURRENCY)) as group,
        ):
            before, during, takeovers = _measure(group, backlog)
        worst = max(takeovers)
        is_met &= worst <= KILL_TARGET_SECONDS + BACKLOG_MS / 1000
        latencies = ["", ""]
        if backlog.has_new_messages:
            p99 = [percentile(each, 99) for each in (before, during)]
            is_met &= p99[1] <= 2 * p99[0]
            latencies = [f"{each * 1000:.0f} ms" for each in p99]
        rows.append([backlog.name, f"{percentile(takeovers, 50):.2f} s", f"{worst:.2f} s", *latencies])
    head = ["backlog", "takeover p50", "takeover max", "p99 of new messages without it", "p99 with it"]
    return table(head, rows), is_met


def _measure(group: Group, backlog: Backlog) -> tuple[list[float], list[float], list[float]]:
    ids = _prepare(group, backlog)
    held = {}
    for victim in VICTIMS:
        group.start_pod(victim)
        held[victim] = group.add(CONCURRENCY, lambda _, name=victim: {"ms": "600000", "only_in": name})  # type: ignore[misc]
        group.wait_held(victim, CONCURRENCY)
    for name in PEERS:
        group.start_pod(name)
    group.wait(lambda: group.blocked_reads() == len(PEERS), "the peers do not wait for messages")
    time.sleep(KILL_INTERVAL_SECONDS)
    before = _latencies(group) if backlog.has_new_messages else []
    backlog.begin(group, ids)
    during = _latencies(group) if backlog.has_new_messages else []
    takeovers = []
    for victim in VICTIMS:
        killed_at = time.time()
        group.pods[victim].signal(signal.SIGKILL)
        group.wait(lambda: set(held[victim]) <= _started(group).keys(), "not all entries were taken over")  # noqa: B023
        starts = _started(group)
        takeovers += [starts[n] - killed_at for n in held[victim]]
        time.sleep(max(0.0, killed_at + KILL_INTERVAL_SECONDS - time.time()))
    return before, during, takeovers


def _prepare(group: Group, backlog: Backlog) -> list[str]:
    """Add the entries of the backlog. Returns their ids."""
    group.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    ids: list[str] = []
    for first, last in pairwise([*range(0, backlog.count, PAGE), backlog.count]):
        pipeline = group.client.pipeline(transaction=False)
        for number in range(first, last):
            pipeline.xadd(STREAM, {"n": f"backlog-{number}", "ms": str(BACKLOG_MS)})
        ids += pipeline.execute()
        group.client.xreadgroup(GROUP, backlog.owner, {STREAM: ">"}, count=PAGE)
    if backlog.owner == POSTPONED:
        _postpone(group, ids)
    return ids


def _latencies(group: Group) -> list[float]:
    """Add new messages at a steady rate. Returns the seconds until each is done."""
    added = {}
    for _ in range(NEW_MESSAGES):
        begin = time.time()
        [n] = group.add(1, lambda _: {"ms": str(BACKLOG_MS)})
        added[n] = begin
        time.sleep(max(0.0, begin + NEW_INTERVAL_SECONDS - time.time()))

    def done() -> dict[str, float]:
        return {line[1]: float(line[5]) for line in group.ledger.lines("done") if line[1] in added}

    group.wait(lambda: len(done()) == NEW_MESSAGES, "new messages are not done")
    return [at - added[n] for n, at in done().items()]


def _started(group: Group) -> dict[str, float]:
    """Return the first start of each message in a peer."""
    found = {n: [at for consumer, at in starts if consumer in PEERS] for n, starts in group.starts().items()}
    return {n: min(times) for n, times in found.items() if times}
