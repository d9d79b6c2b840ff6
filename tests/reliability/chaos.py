"""Thousands of random faults against several groups of pods at once, and the ledger at the end.

    python -m tests.reliability.chaos --faults 10000 --seconds 900 [--seed N]

Exit code 0: everything that was produced is accounted for and nothing is pending. The seed gives the same choices
again, not the same interleaving: what the machine does meanwhile is part of the test.
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

from tests.reliability.deeds import outage_file
from tests.reliability.faults import NetworkFaultQueue, ServerPair, running_server_pair
from tests.reliability.ledger import DELETE, FLUSH, GROUP, TRIM, Account, Ledger
from tests.reliability.nursery import ForkServer, Pod
from tests.reliability.proxy import NetworkFault
from tests.reliability.traffic import Producer
from tests.reliability.trial import pod_environment

STREAMS = 3
PODS = 3
SETTLE_TIMEOUT_SECONDS = 90.0
SETTINGS = {
    "DELIVERY_MAX_DELIVERIES": "10",
    # The breaker opens now and then, and at the end, when only poison is left (see `nursery` for how that ends).
    "DELIVERY_BREAKER_FAILURES": "5",
    "DELIVERY_BREAKER_MAX_PAUSE": "500ms",
    "CONCURRENCY": "4",
    "BATCH_COUNT": "10",
}


class StreamWorkload:
    """One stream: a producer that never rests, and pods that are killed, frozen, asked to stop and replaced."""

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
        """A new one, or one with the name of another: what that had not finished is its own."""
        self._pods_started += 1
        name = name or f"{self.stream}-pod-{self._pods_started}"
        handler = "tests.reliability.deeds:handle" + ("_in_thread" if self._pods_started % 4 == 0 else "")
        environment = pod_environment(
            self.stream, self._server_pair.proxy.url, name, self.ledger, **SETTINGS, HANDLER_PYTHON=handler
        )
        self.pods.append(self._fork_server.start(name, self.folder, environment))

    def replace(self, pod: Pod, number: signal.Signals) -> None:
        """End one by a signal; another comes, under the same name or a new one."""
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
        """What the handlers depend on: long enough for circuit breakers to open, and for trials to count."""
        file = outage_file(self.ledger.handled_file)
        file.touch()
        threading.Timer(seconds, file.unlink, (True,)).start()

    def close(self) -> None:
        """No more messages, and enough healthy pods."""
        self._traffic.stop()
        for pod in self.pods:
            pod.signal(signal.SIGCONT)
        self.pods = [pod for pod in self.pods if pod.is_running]
        for _ in range(PODS - len(self.pods)):
            self.start_pod()

    def wait_settled(self) -> Account:
        return self.ledger.wait_settled(self._server_pair.client, SETTLE_TIMEOUT_SECONDS)


class Chaos:
    """Chooses what goes wrong next."""

    def __init__(self, server_pair: ServerPair, workloads: list[StreamWorkload], rng: random.Random) -> None:
        self._server_pair, self._workloads, self._rng = server_pair, workloads, rng
        self._network_faults = NetworkFaultQueue(random.Random(rng.random()))
        server_pair.proxy.plan = self._network_faults
        self._counts: Counter[str] = Counter()
        self._actions: list[tuple[float, str, Callable[[StreamWorkload], None]]] = [
            (12, "kill -9 of a pod", lambda shop: shop.replace(self._random_pod(shop), signal.SIGKILL)),
            (5, "SIGTERM to a pod", lambda shop: shop.replace(self._random_pod(shop), signal.SIGTERM)),
            (5, "a pod is frozen", lambda shop: shop.freeze(self._random_pod(shop), self._rng.uniform(0.1, 4))),
            (45, "a command is harmed", lambda _: self._network_faults.enqueue(self._rng.choice(list(NetworkFault)))),
            (2, "all connections are cut", lambda _: self._server_pair.proxy.cut_all()),
            (0.5, "what handlers need is away", lambda shop: shop.start_outage(self._rng.uniform(0.5, 4))),
            (2, "a stranger reads and dies", self._abandon_entries),
            (0.2, "entries are trimmed", self._trim),
            (1, "an entry is deleted", self._delete),
            (2, "the group is destroyed", lambda shop: shop.ledger.destroy_group(self._server_pair.client)),
            (0.2, "the keys are flushed", lambda shop: shop.ledger.remove(self._server_pair.client, FLUSH)),
            (0.6, "the server is killed", lambda _: self._if_in_sync(self._server_pair.restart)),
            (0.6, "the server is frozen", lambda _: self._server_pair.freeze(self._rng.uniform(0.1, 1.5))),
            (0.6, "the replica is promoted", lambda _: self._if_in_sync(self._server_pair.promote)),
        ]

    @property
    def faults(self) -> Counter[str]:
        """How often each has happened. What was asked for and hit no command has not."""
        harms = {f"a command: {harm}": count for harm, count in self._network_faults.injected.items()}
        return Counter({**self._counts, **harms})

    def inject_one(self) -> None:
        """One fault."""
        _, name, act = self._rng.choices(self._actions, [weight for weight, *_ in self._actions])[0]
        try:
            act(self._rng.choice(self._workloads))
        except (RedisError, OSError):  # the server is away just now
            return
        if name != "a command is harmed":
            self._counts[name] += 1

    def stop(self) -> None:
        self._network_faults.clear()
        for server in (self._server_pair.primary, self._server_pair.replica):
            server.resume()

    def _random_pod(self, workload: StreamWorkload) -> Pod:
        return self._rng.choice(workload.pods)

    def _if_in_sync(self, act: Callable[[], None]) -> None:
        if not self._server_pair.is_in_sync:
            raise OSError("the replica is not in step: what was confirmed by both would be lost")
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
    """So many faults, about `pace` a second, or as many as the time allows: at twice that, the pods of a busy machine
    die before they have begun anything. Raises AssertionError if the books do not balance."""
    dice = random.Random(seed)
    with running_server_pair() as world, ForkServer() as nursery:
        shops = [StreamWorkload(f"orders-{number}", world, nursery, folder, dice) for number in range(STREAMS)]
        for shop in shops:
            shop.open()
        chaos = Chaos(world, shops, dice)
        try:
            deadline = time.monotonic() + seconds
            while chaos.faults.total() < faults and time.monotonic() < deadline:
                chaos.inject_one()
                time.sleep(dice.expovariate(pace))
        finally:
            chaos.stop()
            for shop in shops:
                shop.close()
        return chaos, [shop.wait_settled() for shop in shops]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}: {given.faults} faults or {given.seconds:.0f} s", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    begun = time.monotonic()
    try:
        chaos, accounts = run(given.faults, given.seconds, given.seed, folder)
    except AssertionError as error:
        print(f"{error}\nledgers and logs are in {folder}", file=sys.stderr)
        return 1
    for name, count in chaos.faults.most_common():
        print(f"{count:7}  {name}")
    print(f"{chaos.faults.total():7}  faults in {time.monotonic() - begun:.0f} s")
    for account in accounts:
        print(account)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
