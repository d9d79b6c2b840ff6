"""What docs/reliability.md says of three promises, measured.

python -m tests.reliability.measures [hand-back] [flushall] [long-handler]
"""

import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.figures import percentile
from tests.cluster.redis_servers import RedisServer
from tests.cluster.runs import wait_until
from tests.reliability.nursery import ForkServer, Pod
from tests.reliability.trial import Scenario

RELEASE_ROUNDS, BUFFERED = 30, 9
FLUSHES, PAUSE_SECONDS = 20, 0.0025
DEFAULT_SETTINGS = {"POLL_INTERVAL": "5s", "DELIVERY_MIN_IDLE": "30s", "BATCH_COUNT": "10"}

NewScenario = Callable[..., Scenario]


def measure_release(new_trial: NewScenario) -> str:
    """SIGTERM to a pod that has nine messages in store, beside one that waits: when that one begins them."""
    delays: list[float] = []
    for _ in range(RELEASE_ROUNDS):
        trial, leaves = _start_busy_and_idle_pods(new_trial)
        time.sleep(random.uniform(0.1, 2.5))
        asked = time.time()
        leaves.signal(signal.SIGTERM)
        delays += [each - asked for each in _begun_times_elsewhere(trial)]
    figures = ", ".join(f"p{percent} {percentile(delays, percent):.3f} s" for percent in (50, 99, 100))
    return f"{len(delays)} messages handed back by {RELEASE_ROUNDS} pods: begun elsewhere after {figures}"


def measure_flushall(new_trial: NewScenario) -> str:
    """FLUSHALL under load: how long until a message is handled that was added after it, and what is handled twice."""
    trial, over = new_trial(**DEFAULT_SETTINGS), threading.Event()
    for name in ("pod-a", "pod-b"):
        trial.start_pod(name)

    def produce() -> None:
        while not over.wait(PAUSE_SECONDS):
            trial.ledger.add(trial.client, {"ms": "0"})

    producer = threading.Thread(target=produce)
    producer.start()
    delays = []
    for _ in range(FLUSHES):
        time.sleep(random.uniform(0.5, 1.5))
        trial.client.flushall()
        begun, so_far = time.time(), len(trial.ledger.produced)
        delays.append(_first_handled_at(trial, so_far) - begun)
    over.set()
    producer.join()
    lines = trial.ledger.lines("done")
    again = len(lines) - len({line[1] for line in lines})
    return (
        f"{FLUSHES} times FLUSHALL under load: going on after {percentile(delays, 50) * 1000:.0f} ms (median), "
        f"{max(delays) * 1000:.0f} ms (most); {again} of {len(lines)} handled again"
    )


def measure_long_handler(new_trial: NewScenario) -> str:
    """A handler of 60 s under a time-out of 120 s, beside a pod that has nothing to do."""
    trial = new_trial(**DEFAULT_SETTINGS, DELIVERY_TIMEOUT="120s")
    for name in ("pod-a", "pod-b"):
        trial.start_pod(name)
    trial.ledger.add(trial.client, {"ms": "60000"})
    _wait_until(lambda: trial.ledger.lines("done"), 90)
    begun = len(trial.ledger.lines("begun"))
    return f"a handler of 60 s: begun {begun} time(s); {trial.wait_settled()}"


def _first_handled_at(scenario: Scenario, so_far: int) -> float:
    """When a message was handled that is younger than so many others."""
    times: list[float] = []

    def handled() -> bool:
        lines = scenario.ledger.lines("done")
        times[:] = [float(line[5]) for line in lines if int(line[1].partition("-")[0]) >= so_far]
        return bool(times)

    _wait_until(handled)
    return min(times)


def _begun_times_elsewhere(scenario: Scenario) -> list[float]:
    times: list[float] = []

    def all_begun() -> bool:
        times[:] = [float(line[5]) for line in scenario.ledger.lines("begun") if line[3] == "pod-b"]
        return len(times) == BUFFERED

    _wait_until(all_begun)
    for pod in scenario.pods:
        pod.remove()
    return times


def _start_busy_and_idle_pods(new_trial: NewScenario) -> tuple[Scenario, Pod]:
    """A pod with one message in hand and nine in store, and one that waits."""
    trial = new_trial(**DEFAULT_SETTINGS, CONCURRENCY="1", DRAIN_TIMEOUT="8s")
    for milliseconds in ("5000", *["0"] * BUFFERED):
        trial.ledger.add(trial.client, {"ms": milliseconds})
    busy = trial.start_pod("pod-a")
    _wait_until(lambda: trial.ledger.lines("begun"))
    trial.start_pod("pod-b")
    _wait_until(lambda: _has_blocked_client(trial.client))
    return trial, busy


def _has_blocked_client(client: Redis) -> bool:
    about: Any = client.info("clients")
    return bool(about["blocked_clients"])


def _wait_until(condition: Callable[[], object], within: float = 20) -> None:
    assert wait_until(lambda: bool(condition()), within), f"not so after {within} s"


MEASUREMENTS = {"hand-back": measure_release, "flushall": measure_flushall, "long-handler": measure_long_handler}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server, ForkServer() as nursery:
        client: Redis = Redis.from_url(server.url, decode_responses=True)
        for name in sys.argv[1:] or MEASUREMENTS:
            trials: list[Scenario] = []

            def new_trial(trials: list[Scenario] = trials, **more: str) -> Scenario:
                trials.append(Scenario(nursery, client, server.url, Path(folder), more))
                return trials[-1]

            print(MEASUREMENTS[name](new_trial), flush=True)
            for pod in [pod for trial in trials for pod in trial.pods]:
                pod.remove()
        client.close()


if __name__ == "__main__":
    main()
