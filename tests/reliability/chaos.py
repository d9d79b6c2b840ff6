"""Chaos test: thousands of random faults against several groups of pods at the same time, then a check of the ledgers.

    python -m tests.reliability.chaos --faults 10000 --seconds 900 [--seed N] [--server redis-8.2]

Exit code 0: every produced message is accounted for and nothing is pending. A seed repeats the same choices, not the
same interleaving, which depends on the machine.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from tests.cluster.redis_servers import DEFAULT, FLAVOURS, REDIS, Flavour
from tests.reliability.faults import TEMPORARY_SETTINGS, NetworkFaultQueue, ServerPair, running_server_pair
from tests.reliability.foreign_commands import FOREIGN_COMMANDS
from tests.reliability.fork_server import ForkServer, Pod
from tests.reliability.ledger import DELETE, FLUSH, GROUP, TRIM, Account
from tests.reliability.proxy import NetworkFault
from tests.reliability.stream_workload import StreamWorkload

STREAMS = 3


class Chaos:
    """Chooses and injects faults."""

    def __init__(self, server_pair: ServerPair, workloads: list[StreamWorkload], rng: random.Random) -> None:
        self._server_pair, self._workloads, self._rng = server_pair, workloads, rng
        self._network_faults = NetworkFaultQueue(random.Random(rng.random()))
        server_pair.proxy.plan = self._network_faults
        self._counts: Counter[str] = Counter()
        self._actions: list[tuple[float, str, Callable[[StreamWorkload], None]]] = [
            (12, "kill -9 of a pod", lambda workload: workload.replace(self._random_pod(workload), signal.SIGKILL)),
            (5, "SIGTERM to a pod", lambda workload: workload.replace(self._random_pod(workload), signal.SIGTERM)),
            (5, "a pod is frozen", self._freeze_pod),
            (1, "a second process has the name of a pod", self._duplicate_pod),
            (0.5, "a pod gets no more memory", self._limit_memory),
            (
                0.5,
                "a handler holds the interpreter lock",
                lambda workload: workload.hold_interpreter_lock(self._rng.uniform(0.2, 2)),
            ),
            (
                45,
                "a command is disturbed",
                lambda _: self._network_faults.enqueue(self._rng.choice(list(NetworkFault))),
            ),
            (2, "all connections are cut", lambda _: self._server_pair.proxy.cut_all()),
            (
                0.5,
                "a dependency of the handlers is unavailable",
                lambda workload: workload.start_outage(self._rng.uniform(0.5, 4)),
            ),
            (2, "another program reads and dies", self._abandon_entries),
            (3, "a foreign command", self._run_foreign_command),
            (0.2, "entries are trimmed", self._trim),
            (1, "an entry is deleted", self._delete),
            (2, "the group is destroyed", lambda workload: workload.ledger.destroy_group(self._server_pair.client)),
            (
                0.5,
                "the group is destroyed twice",
                lambda workload: workload.lose_group_twice(self._rng.uniform(0.05, 2)),
            ),
            (0.2, "the keys are flushed", lambda workload: workload.ledger.remove(self._server_pair.client, FLUSH)),
            (0.6, "the server is killed", lambda _: self._if_in_sync(self._server_pair.restart)),
            (0.6, "the server is frozen", lambda _: self._server_pair.freeze(self._rng.uniform(0.1, 1.5))),
            (0.6, "the replica is promoted", lambda _: self._if_in_sync(self._server_pair.promote)),
            (
                0.3,
                "all connections are slow",
                lambda _: self._server_pair.slow_down(self._rng.uniform(0.02, 0.5), self._rng.uniform(0.5, 3)),
            ),
            (0.3, "the server pauses writes", lambda _: self._server_pair.pause_writes(self._rng.uniform(0.1, 3))),
        ]
        self._actions += [
            (0.4, name, partial(self._change_setting, setting)) for name, setting in TEMPORARY_SETTINGS.items()
        ]

    @property
    def faults(self) -> Counter[str]:
        """Number of injected faults of each kind. A network fault that hit no command does not count."""
        network_faults = {f"a command: {fault}": count for fault, count in self._network_faults.injected.items()}
        return Counter({**self._counts, **network_faults})

    def inject_one(self) -> None:
        """Inject one fault."""
        for workload in self._workloads:
            workload.replace_ended_pods()
        _, name, act = self._rng.choices(self._actions, [weight for weight, *_ in self._actions])[0]
        try:
            act(self._rng.choice(self._workloads))
        except (RedisError, OSError):  # the server is unavailable at this moment
            return
        if name != "a command is disturbed":
            self._counts[name] += 1

    def stop(self) -> None:
        self._network_faults.clear()
        self._server_pair.end_faults()

    def _random_pod(self, workload: StreamWorkload) -> Pod:
        return self._rng.choice(workload.pods)

    def _freeze_pod(self, workload: StreamWorkload) -> None:
        """Freeze a pod, at times for longer than `minIdle` (3 s), so that its peers claim its entries."""
        workload.freeze(self._random_pod(workload), self._rng.uniform(0.1, 4 if self._rng.random() < 0.9 else 8))

    def _duplicate_pod(self, workload: StreamWorkload) -> None:
        workload.duplicate(self._random_pod(workload), self._rng.uniform(0.1, 4))

    def _limit_memory(self, workload: StreamWorkload) -> None:
        workload.limit_memory(self._random_pod(workload), self._rng.uniform(0.2, 3))

    def _change_setting(self, setting: tuple[str, str, str], _workload: StreamWorkload) -> None:
        self._server_pair.set_for(self._rng.uniform(0.2, 2), *setting)

    def _run_foreign_command(self, workload: StreamWorkload) -> None:
        self._rng.choice(FOREIGN_COMMANDS)(self._server_pair.client, workload.stream, self._rng)

    def _if_in_sync(self, act: Callable[[], None]) -> None:
        if not self._server_pair.is_in_sync:
            raise OSError("the replica is not in sync: entries that both confirmed would be lost")
        act()

    def _abandon_entries(self, workload: StreamWorkload) -> None:
        self._server_pair.client.xreadgroup(GROUP, f"stranger-{self._rng.random()}", {workload.stream: ">"}, 3)

    def _trim(self, workload: StreamWorkload) -> None:
        newest: Any = self._server_pair.client.xrevrange(workload.stream, count=300)
        if newest:
            workload.ledger.remove(self._server_pair.client, TRIM, newest[-1][0])

    def _delete(self, workload: StreamWorkload) -> None:
        newest: Any = self._server_pair.client.xrevrange(workload.stream, count=5)
        if newest:
            workload.ledger.remove(self._server_pair.client, DELETE, self._rng.choice(newest)[0])


def run(
    faults: int, seconds: float, seed: int, folder: Path, *, pace: float = 20, flavour: Flavour = DEFAULT
) -> tuple[Chaos, list[Account]]:
    """Inject `faults` faults into a pair of servers, about `pace` per second, or as many as `seconds` allow.

    At twice that pace, the pods of a busy machine die before they start anything. Raises AssertionError if the ledgers
    do not balance.
    """
    rng = random.Random(seed)
    with running_server_pair(flavour) as server_pair, ForkServer() as fork_server:
        workloads = [
            StreamWorkload(f"orders-{number}", server_pair, fork_server, folder, rng) for number in range(STREAMS)
        ]
        for workload in workloads:
            workload.open()
        chaos = Chaos(server_pair, workloads, rng)
        try:
            deadline = time.monotonic() + seconds
            while chaos.faults.total() < faults and time.monotonic() < deadline:
                chaos.inject_one()
                time.sleep(rng.expovariate(pace))
        finally:
            chaos.stop()
            for workload in workloads:
                workload.close()
        return chaos, [workload.wait_settled() for workload in workloads]


def main() -> int:
    names = [flavour.name for flavour in FLAVOURS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--server", choices=[*names, "all"], default=REDIS.name)
    arguments = parser.parse_args()
    flavours = [flavour for flavour in FLAVOURS if arguments.server in {flavour.name, "all"}]
    return max(run_on(flavour, arguments.faults, arguments.seconds, arguments.seed) for flavour in flavours)


def run_on(flavour: Flavour, faults: int, seconds: float, seed: int) -> int:
    """Run the test on one kind of server, and print the figures. Returns 0 if the ledgers balance."""
    print(f"{flavour.name}, seed {seed}: {faults} faults or {seconds:.0f} s", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    start_seconds = time.monotonic()
    try:
        chaos, accounts = run(faults, seconds, seed, folder, flavour=flavour)
    except AssertionError as error:
        print(f"{error}\nledgers and logs are in {folder}", file=sys.stderr)
        return 1
    for name, count in chaos.faults.most_common():
        print(f"{count:7}  {name}")
    print(f"{chaos.faults.total():7}  faults in {time.monotonic() - start_seconds:.0f} s")
    for account in accounts:
        print(account)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
