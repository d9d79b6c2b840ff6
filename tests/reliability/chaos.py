"""Chaos test: thousands of random faults against several groups of pods at the same time, then a check of the ledgers.

    python -m tests.reliability.chaos --faults 10000 --seconds 900 [--seed N]

Exit code 0: every produced message is accounted for and nothing is pending. A seed repeats the same choices, not the
same interleaving, which depends on the machine.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from tests.reliability.faults import NetworkFaultQueue, ServerPair, running_server_pair
from tests.reliability.fork_server import ForkServer, Pod
from tests.reliability.ledger import DELETE, FLUSH, GROUP, TRIM, Account, Ledger
from tests.reliability.proxy import NetworkFault
from tests.reliability.scenario import pod_environment
from tests.reliability.scripted_handler import outage_file
from tests.reliability.traffic import Producer

STREAMS = 3
PODS = 3
SETTLE_TIMEOUT_SECONDS = 90.0
SETTINGS = {
    "DELIVERY_MAX_DELIVERIES": "10",
    # The circuit breaker opens at times, and at the end when only poison messages are left (see `fork_server`).
    "DELIVERY_BREAKER_FAILURES": "5",
    "DELIVERY_BREAKER_MAX_PAUSE": "500ms",
    "CONCURRENCY": "4",
    "BATCH_COUNT": "10",
}


class StreamWorkload:
    """Stream with a continuous producer, and pods that are killed, frozen, stopped and replaced."""

    def __init__(
        self, stream: str, server_pair: ServerPair, fork_server: ForkServer, folder: Path, rng: random.Random
    ) -> None:
        self.stream, self._server_pair, self._fork_server, self._rng = stream, server_pair, fork_server, rng
        self.folder = folder / stream
        self.folder.mkdir()
        self.ledger = Ledger(stream, self.folder / "ledger")
        self.pods: list[Pod] = []
        self._pods_started = 0
        self._traffic = Producer(self.ledger, lambda: server_pair.client, random.Random(rng.random()), replicas=1)

    def open(self) -> None:
        for _ in range(PODS):
            self.start_pod()
        self._traffic.start()

    def start_pod(self, name: str = "") -> None:
        """Start a pod. With the name of a killed pod, it owns the entries that the killed pod did not finish."""
        self._pods_started += 1
        name = name or f"{self.stream}-pod-{self._pods_started}"
        handler = "tests.reliability.scripted_handler:handle" + ("_in_thread" if self._pods_started % 4 == 0 else "")
        environment = pod_environment(
            self.stream, self._server_pair.proxy.url, name, self.ledger, **SETTINGS, HANDLER_PYTHON=handler
        )
        self.pods.append(self._fork_server.start(name, self.folder, environment))

    def replace(self, pod: Pod, number: signal.Signals) -> None:
        """End a pod by a signal and start another one, under the same name or a new one."""
        self.pods.remove(pod)
        pod.signal(number)
        if number == signal.SIGKILL:
            pod.remove()
        else:
            threading.Timer(8, pod.remove).start()
        self.start_pod(pod.name if number == signal.SIGKILL and self._rng.random() < 0.5 else "")

    def freeze(self, pod: Pod, seconds: float) -> None:
        pod.signal(signal.SIGSTOP)
        threading.Timer(seconds, pod.signal, (signal.SIGCONT,)).start()

    def start_outage(self, seconds: float) -> None:
        """Make a dependency of the handlers unavailable. `seconds` can be long enough that breaker trials count."""
        file = outage_file(self.ledger.handled_file)
        file.touch()
        threading.Timer(seconds, file.unlink, (True,)).start()

    def close(self) -> None:
        """Stop the producer, and make sure that `PODS` healthy pods run."""
        self._traffic.stop()
        for pod in self.pods:
            pod.signal(signal.SIGCONT)
        self.pods = [pod for pod in self.pods if pod.is_running]
        for _ in range(PODS - len(self.pods)):
            self.start_pod()

    def wait_settled(self) -> Account:
        return self.ledger.wait_settled(self._server_pair.client, SETTLE_TIMEOUT_SECONDS)


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
            (
                5,
                "a pod is frozen",
                lambda workload: workload.freeze(self._random_pod(workload), self._rng.uniform(0.1, 4)),
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
            (0.2, "entries are trimmed", self._trim),
            (1, "an entry is deleted", self._delete),
            (2, "the group is destroyed", lambda workload: workload.ledger.destroy_group(self._server_pair.client)),
            (0.2, "the keys are flushed", lambda workload: workload.ledger.remove(self._server_pair.client, FLUSH)),
            (0.6, "the server is killed", lambda _: self._if_in_sync(self._server_pair.restart)),
            (0.6, "the server is frozen", lambda _: self._server_pair.freeze(self._rng.uniform(0.1, 1.5))),
            (0.6, "the replica is promoted", lambda _: self._if_in_sync(self._server_pair.promote)),
        ]

    @property
    def faults(self) -> Counter[str]:
        """Number of injected faults of each kind. A network fault that hit no command does not count."""
        network_faults = {f"a command: {fault}": count for fault, count in self._network_faults.injected.items()}
        return Counter({**self._counts, **network_faults})

    def inject_one(self) -> None:
        """Inject one fault."""
        _, name, act = self._rng.choices(self._actions, [weight for weight, *_ in self._actions])[0]
        try:
            act(self._rng.choice(self._workloads))
        except (RedisError, OSError):  # the server is unavailable at this moment
            return
        if name != "a command is disturbed":
            self._counts[name] += 1

    def stop(self) -> None:
        self._network_faults.clear()
        for server in (self._server_pair.primary, self._server_pair.replica):
            server.resume()

    def _random_pod(self, workload: StreamWorkload) -> Pod:
        return self._rng.choice(workload.pods)

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


def run(faults: int, seconds: float, seed: int, folder: Path, *, pace: float = 20) -> tuple[Chaos, list[Account]]:
    """Inject `faults` faults, about `pace` per second, or as many as `seconds` allow.

    At twice that pace, the pods of a busy machine die before they start anything. Raises AssertionError if the ledgers
    do not balance.
    """
    rng = random.Random(seed)
    with running_server_pair() as server_pair, ForkServer() as fork_server:
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: {arguments.faults} faults or {arguments.seconds:.0f} s", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    start_seconds = time.monotonic()
    try:
        chaos, accounts = run(arguments.faults, arguments.seconds, arguments.seed, folder)
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
