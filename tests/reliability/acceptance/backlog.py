"""Measures the takeover of killed pods, and the latency of new messages, while the group has a large backlog."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path

from benchmarks.figures import percentile
from benchmarks.results import table
from tests.reliability.acceptance.control import max_lateness
from tests.reliability.acceptance.group import STREAM, Group
from tests.reliability.acceptance.takeover import KILL_TARGET_SECONDS, MAX_LATENESS_SECONDS, start_control_timers
from tests.reliability.fork_server import ForkServer
from tests.reliability.ledger import GROUP

PEERS = ("pod-b", "pod-c")
CONCURRENCY = 4
ROUNDS, MESSAGES_PER_ROUND = 4, 50
"""New messages are added in rounds. In each round, no entries are due at first, and then all entries of the backlog.
A busy minute of the machine therefore affects both measurements."""
NEW_INTERVAL_SECONDS = (0.05, 0.15)
"""Minimum and maximum time between two new messages, so that they arrive at any moment of the running handlers."""
KILL_INTERVAL_SECONDS = 5.0
PAGE = 5000
POSTPONED, SCHEDULE = "~postponed", f"{{{STREAM}}}:{GROUP}:postponed"
FOREIGN = "another-program"

SET_DUE_TIMES = """
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 1, '+inf')) do redis.call('ZADD', KEYS[1], ARGV[1], id) end
"""
"""Sets the due time of all entries that are still postponed."""


@dataclass(frozen=True)
class Backlog:
    """Entries that wait while pods are killed."""

    name: str
    count: int
    owner: str
    """Consumer that owns the entries before the pods start. Empty if the entries are new."""
    begin: Callable[[Group, list[str]], None]
    """Makes the entries a burden for the pods, which are running."""
    handler_ms: int = 100
    has_new_messages: bool = False
    """True if the latency of new messages is measured too."""
    victims: int = 5
    """Number of pods that are killed one after the other. Each of them takes its turn in checking the others, although
    it has no free slot."""
    repetitions: int = 1


def _make_due(group: Group, _ids: list[str]) -> None:
    _set_due_times(group, time.time())


def _set_due_times(group: Group, due_at: float) -> None:
    group.client.eval(SET_DUE_TIMES, 1, SCHEDULE, str(round(due_at * 1000)))


def _trim(group: Group, ids: list[str]) -> None:
    """Delete the entries from the stream, and make them idle."""
    for page in _pages(ids):
        group.client.xclaim(STREAM, GROUP, FOREIGN, 0, page, idle=3_600_000, justid=True)  # type: ignore[arg-type]
    for page in _pages(ids):
        group.client.xdel(STREAM, *page)


def _do_nothing(_group: Group, _ids: list[str]) -> None:
    """Leave the entries unchanged."""


def _add_new(group: Group, _ids: list[str]) -> None:
    _add(group, SLOW)


def _pages(ids: list[str]) -> Iterator[list[str]]:
    return (ids[first : first + PAGE] for first in range(0, len(ids), PAGE))


SLOW = Backlog("20,000 new entries, handlers of 1 s", 20_000, "", _add_new, handler_ms=1000, victims=1, repetitions=5)
BACKLOGS = (
    Backlog("60,000 due entries, handlers of 100 ms", 60_000, POSTPONED, _make_due, has_new_messages=True),
    SLOW,
    Backlog("200,000 trimmed entries", 200_000, FOREIGN, _trim),
    Backlog("200,000 entries of another program", 200_000, FOREIGN, _do_nothing),
    Backlog("200,000 postponed entries", 200_000, POSTPONED, _do_nothing),
)


@dataclass
class Figures:
    """Measured times in seconds."""

    without: list[float] = field(default_factory=list)
    """Latencies of new messages while no entries are due."""
    with_due: list[float] = field(default_factory=list)
    """Latencies of new messages while entries are due."""
    takeovers: list[float] = field(default_factory=list)
    """Times from each kill to the start of each entry in a peer."""
    discarded: int = 0
    """Number of kills that do not count, because the machine ran a peer too late."""


def measure_backlogs(folder: Path) -> tuple[str, bool]:
    """Kill pods while the group has a backlog. Returns the report, and True if the figures are within their targets."""
    rows, is_met = [], True
    for number, backlog in enumerate(BACKLOGS):
        settings = {"CONCURRENCY": str(CONCURRENCY), "HANDLER_PYTHON": "tests.reliability.acceptance.control:handle"}
        figures = Figures()
        for repetition in range(backlog.repetitions):
            with (
                ForkServer(shortens_pauses=False) as fork_server,
                Group(fork_server, folder / f"backlog-{number}-{repetition}", **settings) as group,
            ):
                _measure(group, backlog, figures)
        latencies = [percentile(each, 99) for each in (figures.without, figures.with_due) if each]
        if latencies:
            is_met &= latencies[1] <= 2 * latencies[0]
        worst = max(figures.takeovers, default=inf)
        is_met &= worst <= KILL_TARGET_SECONDS + backlog.handler_ms / 1000
        takeover = [f"{each:.2f} s" for each in (percentile(figures.takeovers or [inf], 50), worst)]
        rows.append([backlog.name, *takeover, str(figures.discarded), *(f"{each * 1000:.0f} ms" for each in latencies)])
        print(*rows[-1], sep=" | ", flush=True)
    head = ["backlog", "takeover p50", "takeover max", "discarded kills", "p99 of new messages without it", "with it"]
    return table(head, [row + [""] * (len(head) - len(row)) for row in rows]), is_met


def _measure(group: Group, backlog: Backlog, figures: Figures) -> None:
    """Add the times of one group to `figures`."""
    ids, held = _prepare(group, backlog), {}
    for victim in (f"victim-{number}" for number in range(backlog.victims)):
        group.start_pod(victim)
        held[victim] = group.add(CONCURRENCY, lambda _, name=victim: {"ms": "600000", "only_in": name})  # type: ignore[misc]
        group.wait_held(victim, CONCURRENCY)
    for name in PEERS:
        group.start_pod(name)
    group.wait(lambda: group.blocked_reads() == len(PEERS), "the peers do not wait for messages")
    start_control_timers(group, PEERS)
    time.sleep(KILL_INTERVAL_SECONDS)
    for _ in range(ROUNDS if backlog.has_new_messages else 0):
        figures.without += _latencies(group, backlog)
        _make_due(group, ids)
        _wait_handled_by_all(group)
        figures.with_due += _latencies(group, backlog)
        _set_due_times(group, time.time() + 3600)
        group.wait(lambda: not any(map(group.pending_of, PEERS)), "the peers do not finish the due entries")
    backlog.begin(group, ids)
    for victim, messages in held.items():
        _kill(group, victim, set(messages), figures)


def _kill(group: Group, victim: str, held: set[str], figures: Figures) -> None:
    """Kill a pod, and wait until its entries have started in the peers."""
    killed_at = time.time()
    group.pods[victim].signal(signal.SIGKILL)
    group.wait(lambda: held <= _started(group).keys(), "not all entries were taken over")
    starts = [at for n, at in _started(group).items() if n in held]
    if max_lateness(group.ledger.handled_file, set(PEERS), killed_at, max(starts)) <= MAX_LATENESS_SECONDS:
        figures.takeovers += [at - killed_at for at in starts]
    else:
        figures.discarded += 1
    time.sleep(max(0.0, killed_at + KILL_INTERVAL_SECONDS - time.time()))


def _prepare(group: Group, backlog: Backlog) -> list[str]:
    """Create the group, and the entries of the backlog that are not new. Returns their ids."""
    group.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    if not backlog.owner:
        return []
    ids = _add(group, backlog)
    while group.client.xreadgroup(GROUP, backlog.owner, {STREAM: ">"}, count=PAGE):
        pass
    if backlog.owner == POSTPONED:
        for page in _pages(ids):
            group.client.zadd(SCHEDULE, dict.fromkeys(page, round((time.time() + 3600) * 1000)))
    return ids


def _add(group: Group, backlog: Backlog) -> list[str]:
    ids: list[str] = []
    for first, last in pairwise([*range(0, backlog.count, PAGE), backlog.count]):
        pipeline = group.client.pipeline(transaction=False)
        for number in range(first, last):
            pipeline.xadd(STREAM, {"n": f"backlog-{number}", "ms": str(backlog.handler_ms)})
        ids += pipeline.execute()
    return ids


def _wait_handled_by_all(group: Group) -> None:
    """Wait until each peer has started an entry of the backlog since this call."""
    known = len(group.ledger.lines("started"))

    def consumers() -> set[str]:
        return {line[3] for line in group.ledger.lines("started")[known:] if line[1].startswith("backlog")}

    group.wait(lambda: set(PEERS) <= consumers(), "a peer does not handle due entries")


def _latencies(group: Group, backlog: Backlog) -> list[float]:
    """Add new messages. Returns the seconds until each is done."""
    added = {}
    for _ in range(MESSAGES_PER_ROUND):
        begin = time.time()
        [n] = group.add(1, lambda _: {"ms": str(backlog.handler_ms)})
        added[n] = begin
        time.sleep(max(0.0, begin + random.uniform(*NEW_INTERVAL_SECONDS) - time.time()))

    def done() -> dict[str, float]:
        return {line[1]: float(line[5]) for line in group.ledger.lines("done") if line[1] in added}

    group.wait(lambda: len(done()) == MESSAGES_PER_ROUND, "new messages are not done")
    return [at - added[n] for n, at in done().items()]


def _started(group: Group) -> dict[str, float]:
    """Return the first start of each message in a peer."""
    found = {n: [at for consumer, at in starts if consumer in PEERS] for n, starts in group.starts().items()}
    return {n: min(times) for n, times in found.items() if times}
