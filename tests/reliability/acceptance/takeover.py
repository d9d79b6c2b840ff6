"""Measures the time from the loss of a pod that holds 100 entries until its peers have started them."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.figures import percentile
from benchmarks.results import table
from tests.cluster.errors import MissingTool
from tests.reliability.acceptance.control import max_lateness
from tests.reliability.acceptance.group import MAX_ATTEMPTS, Group, retry_until_held
from tests.reliability.fork_server import ForkServer, Pod

HELD = 100
PEERS = ("pod-b", "pod-c")
CONCURRENCIES = ("100", "10")
"""The lost pod runs all of its entries, or 10 of them while the others are queued. The samples alternate."""
PARALLEL = 3
MAX_LATENESS_SECONDS = 0.2
"""A sample is discarded if the control timer of a peer was later."""
TAKEOVER_TIMEOUT_SECONDS = 90.0
KILL_TARGET_SECONDS = 2.5
LOST_NODE_MARGIN_SECONDS = 2.0
SETTLE_SECONDS = (3.0, 6.0)
"""Time from the start of the peers to the fault: the peers have checked each other at least once."""

LOST_NODE_ADDRESS = "127.0.0.2"
"""Address under which only the lost node reaches the server."""

Fail = Callable[[Pod], None]


@dataclass(frozen=True)
class Sample:
    """Takeover of one pod's entries."""

    first: float
    """Seconds from the fault to the start of the first entry in a peer."""
    last: float
    lateness: float
    twice: int
    """Number of entries that the peers started more than once."""

    @property
    def is_valid(self) -> bool:
        """True if the machine ran the peers in time."""
        return self.lateness <= MAX_LATENESS_SECONDS


def measure_takeover(
    group: Group, fail: Fail, victim_url: str = "", settle: tuple[float, float] = SETTLE_SECONDS
) -> Sample:
    """Let one pod hold 100 entries while its peers wait for messages, make it fail, and wait for the takeover."""
    victim = group.start_pod("pod-a", victim_url)
    is_queueing = int(group.settings["CONCURRENCY"]) < HELD
    if is_queueing:
        group.let_prefetch("pod-a")
    held = set(group.add(HELD, lambda _: {"ms": "600000", "only_in": "pod-a"}))
    group.wait_held("pod-a", HELD)
    for name in PEERS:
        group.start_pod(name)
    group.wait(lambda: group.blocked_reads() == len(PEERS) + is_queueing, "the peers do not wait for messages")
    start_control_timers(group, PEERS)
    time.sleep(random.uniform(*settle))
    failed_at = time.time()
    fail(victim)
    group.wait(
        lambda: held <= _started_by_peers(group).keys(), "not all entries were taken over", TAKEOVER_TIMEOUT_SECONDS
    )
    starts = _started_by_peers(group)
    times = [starts[n][0] for n in held]
    lateness = max_lateness(group.ledger.handled_file, set(PEERS), failed_at, max(times))
    twice = sum(len(starts[n]) > 1 for n in held)
    return Sample(min(times) - failed_at, max(times) - failed_at, lateness, twice)


def start_control_timers(group: Group, peers: Collection[str]) -> None:
    """Add messages until each of these pods has started one."""

    def peers_have_started() -> bool:
        group.add(1, lambda _: {"ms": "0"})
        return {*peers} <= {consumer for starts in group.starts().values() for consumer, _ in starts}

    group.wait(peers_have_started, "a peer got no message, so its control timer does not run")


def _started_by_peers(group: Group) -> dict[str, list[float]]:
    found = {n: sorted(at for consumer, at in starts if consumer in PEERS) for n, starts in group.starts().items()}
    return {n: times for n, times in found.items() if times}


def measure_kills(kills: int, folder: Path, *, percent: float = 99) -> tuple[str, bool]:
    """Kill pods until `kills` samples are valid, but at most three times as often.

    Returns the report, and True if the percentile `percent` of the last starts is within the target.
    """
    numbers = count()
    with ForkServer(shortens_pauses=False) as fork_server:

        def kill_one(_: int) -> Sample:
            number = next(numbers)

            def measure(own_folder: Path) -> Sample:
                with _new_group(fork_server, own_folder, CONCURRENCIES[number % 2]) as group:
                    return measure_takeover(group, lambda victim: victim.signal(signal.SIGKILL))

            return retry_until_held(measure, folder / f"kill-{number}")

        samples = list(_until_valid(kill_one, kills))
    valid = [sample for sample in samples if sample.is_valid]
    if not valid:
        return f"kill -9: the machine was too busy for a valid sample in {len(samples)} kills", False
    head = ["", "p50 s", "p99 s", "max s", f"p99 at most {KILL_TARGET_SECONDS} s"]
    lasts = [each.last for each in valid]
    rows = [_figures("kill to first start", [each.first for each in valid]), _figures("kill to last start", lasts)]
    report = (
        f"kill -9 of a pod that holds {HELD} entries, {len(PEERS)} peers: {len(valid)} samples; "
        f"{len(samples) - len(valid)} discarded because a control timer was more than {MAX_LATENESS_SECONDS} s late; "
        f"peers started {sum(each.twice for each in samples)} entries more than once\n\n{table(head, rows)}"
    )
    return report, percentile(lasts, percent) <= KILL_TARGET_SECONDS


def _until_valid(measure: Callable[[int], Sample], wanted: int) -> Iterator[Sample]:
    valid = attempts = 0
    with ThreadPoolExecutor(PARALLEL) as pool:
        while valid < wanted and attempts < 3 * wanted:
            missing = min(wanted - valid, 3 * wanted - attempts)
            attempts += missing
            for sample in pool.map(measure, range(missing)):
                valid += sample.is_valid
                print(
                    f"first {sample.first:.2f} s, last {sample.last:.2f} s, control {sample.lateness:.2f} s late",
                    flush=True,
                )
                yield sample


def _figures(name: str, values: list[float]) -> list[str]:
    p50, p99, maximum = (percentile(values, percent) for percent in (50, 99, 100))
    return [name, f"{p50:.2f}", f"{p99:.2f}", f"{maximum:.2f}", "yes" if p99 <= KILL_TARGET_SECONDS else "**no**"]


def measure_lost_nodes(min_idles: list[float], folder: Path) -> tuple[str, bool]:
    """Drop all packets of a pod, once for each value of `minIdle`. Runs in a network namespace of its own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with ForkServer(shortens_pauses=False) as fork_server:

        def lose_one(number: int) -> Sample:
            options = {"bind": f"127.0.0.1 {LOST_NODE_ADDRESS}"}
            min_idle = {"DELIVERY_MIN_IDLE": f"{min_idles[number]:g}s"}

            def measure(own_folder: Path) -> Sample:
                with _new_group(fork_server, own_folder, CONCURRENCIES[number % 2], options, **min_idle) as group:
                    url = group.server.url.replace(group.server.host, LOST_NODE_ADDRESS)
                    return measure_takeover(group, lambda _: _drop(LOST_NODE_ADDRESS, group.server.port), url)

            for attempt in range(MAX_ATTEMPTS):
                sample = retry_until_held(measure, folder / f"lost-node-{number}" / f"attempt-{attempt}")
                if sample.is_valid:
                    break
            return sample

        with ThreadPoolExecutor(PARALLEL) as pool:
            samples = list(pool.map(lose_one, range(len(min_idles))))
    rows, is_met = [], True
    for min_idle, sample in zip(min_idles, samples, strict=True):
        is_in_time = sample.is_valid and sample.last <= min_idle + LOST_NODE_MARGIN_SECONDS
        is_met &= is_in_time
        verdict = "yes" if is_in_time else f"**no**, control {sample.lateness:.1f} s late"
        rows.append([f"{min_idle:g}", f"{sample.first:.2f}", f"{sample.last:.2f}", str(sample.twice), verdict])
    head = [
        "minIdle s",
        "first start s",
        "last start s",
        "started twice by peers",
        f"≤ minIdle + {LOST_NODE_MARGIN_SECONDS:g} s",
    ]
    return f"packets of a pod that holds {HELD} entries are dropped\n\n{table(head, rows)}", is_met


def in_own_network(command: list[str]) -> list[str]:
    """Return the command that runs `command` in a new network namespace. Raises MissingTool without the permission."""
    enter = ["unshare", "--net", "--"]
    try:
        subprocess.run([*enter, "iptables", "-L", "-n"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingTool(f"unshare --net and iptables: {error}; run as root with iptables installed") from None
    return [*enter, *command]


def _drop(address: str, port: int) -> None:
    """Drop the packets to and from one address and port, without a reply to either side."""
    for address_flag, port_flag in (("-d", "--dport"), ("-s", "--sport")):
        rule = ["-A", "INPUT", address_flag, address, "-p", "tcp", port_flag, str(port), "-j", "DROP"]
        subprocess.run(["iptables", "-w", *rule], check=True)


def _new_group(
    fork_server: ForkServer, folder: Path, concurrency: str, options: dict[str, str] | None = None, **settings: str
) -> Group:
    handler = "tests.reliability.acceptance.control:handle"
    capacity = {"CONCURRENCY": concurrency, "BATCH_COUNT": str(HELD)}
    return Group(fork_server, folder, options, HANDLER_PYTHON=handler, **capacity, **settings)
