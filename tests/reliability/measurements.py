"""Measurements of three promises, for docs/reliability.md.

python -m tests.reliability.measurements [release] [flushall] [long-handler]
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
from tests.reliability.fork_server import ForkServer, Pod
from tests.reliability.scenario import Scenario

RELEASE_ROUNDS, BUFFERED = 30, 9
FLUSHES, PAUSE_SECONDS = 20, 0.0025
DEFAULT_SETTINGS = {"POLL_INTERVAL": "5s", "DELIVERY_MIN_IDLE": "30s", "BATCH_COUNT": "10"}

NewScenario = Callable[..., Scenario]


def measure_release(new_scenario: NewScenario) -> str:
    """Send SIGTERM to a pod with nine unstarted messages, and measure when an idle pod starts them."""
    delays: list[float] = []
    for _ in range(RELEASE_ROUNDS):
        scenario, stopping = _start_busy_and_idle_pods(new_scenario)
        time.sleep(random.uniform(0.1, 2.5))
        signal_time = time.time()
        stopping.signal(signal.SIGTERM)
        delays += [start_time - signal_time for start_time in _start_times_in_peer(scenario)]
    figures = ", ".join(f"p{percent} {percentile(delays, percent):.3f} s" for percent in (50, 99, 100))
    return f"{len(delays)} messages released by {RELEASE_ROUNDS} pods: started in the other pod after {figures}"


def measure_flushall(new_scenario: NewScenario) -> str:
    """Run FLUSHALL under load. Measure the delay of the next message, and count messages that are handled again."""
    scenario, is_over = new_scenario(**DEFAULT_SETTINGS), threading.Event()
    for name in ("pod-a", "pod-b"):
        scenario.start_pod(name)

    def produce() -> None:
        while not is_over.wait(PAUSE_SECONDS):
            scenario.ledger.add(scenario.client, {"ms": "0"})

    producer = threading.Thread(target=produce)
    producer.start()
    delays = []
    for _ in range(FLUSHES):
        time.sleep(random.uniform(0.5, 1.5))
        scenario.client.flushall()
        flush_time, produced_before = time.time(), len(scenario.ledger.produced)
        delays.append(_first_handled_at(scenario, produced_before) - flush_time)
    is_over.set()
    producer.join()
    lines = scenario.ledger.lines("done")
    handled_again = len(lines) - len({line[1] for line in lines})
    return (
        f"{FLUSHES} times FLUSHALL under load: next message after {percentile(delays, 50) * 1000:.0f} ms (median), "
        f"{max(delays) * 1000:.0f} ms (maximum); {handled_again} of {len(lines)} handled again"
    )


def measure_long_handler(new_scenario: NewScenario) -> str:
    """Run a handler for 60 s with a timeout of 120 s while another pod is idle."""
    scenario = new_scenario(**DEFAULT_SETTINGS, DELIVERY_TIMEOUT="120s")
    for name in ("pod-a", "pod-b"):
        scenario.start_pod(name)
    scenario.ledger.add(scenario.client, {"ms": "60000"})
    _wait_until(lambda: scenario.ledger.lines("done"), 90)
    starts = len(scenario.ledger.lines("started"))
    return f"a handler of 60 s: started {starts} time(s); {scenario.wait_settled()}"


def _first_handled_at(scenario: Scenario, produced_before: int) -> float:
    """Wait for a message that was produced after the first `produced_before`. Returns when it was handled."""
    times: list[float] = []

    def handled() -> bool:
        lines = scenario.ledger.lines("done")
        times[:] = [float(line[5]) for line in lines if int(line[1].partition("-")[0]) >= produced_before]
        return bool(times)

    _wait_until(handled)
    return min(times)


def _start_times_in_peer(scenario: Scenario) -> list[float]:
    """Wait until the other pod has started all released messages. Returns the start times."""
    times: list[float] = []

    def all_started() -> bool:
        times[:] = [float(line[5]) for line in scenario.ledger.lines("started") if line[3] == "pod-b"]
        return len(times) == BUFFERED

    _wait_until(all_started)
    for pod in scenario.pods:
        pod.remove()
    return times


def _start_busy_and_idle_pods(new_scenario: NewScenario) -> tuple[Scenario, Pod]:
    """Start a pod with one running and nine unstarted messages, and an idle pod. Returns scenario and busy pod."""
    scenario = new_scenario(**DEFAULT_SETTINGS, CONCURRENCY="1", DRAIN_TIMEOUT="8s")
    for milliseconds in ("5000", *["0"] * BUFFERED):
        scenario.ledger.add(scenario.client, {"ms": milliseconds})
    busy = scenario.start_pod("pod-a")
    _wait_until(lambda: scenario.ledger.lines("started"))
    scenario.start_pod("pod-b")
    _wait_until(lambda: _has_blocked_client(scenario.client))
    return scenario, busy


def _has_blocked_client(client: Redis) -> bool:
    clients_info: Any = client.info("clients")
    return bool(clients_info["blocked_clients"])


def _wait_until(condition: Callable[[], object], within: float = 20) -> None:
    assert wait_until(lambda: bool(condition()), within), f"condition not met after {within} s"


MEASUREMENTS = {"release": measure_release, "flushall": measure_flushall, "long-handler": measure_long_handler}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server, ForkServer() as fork_server:
        client: Redis = Redis.from_url(server.url, decode_responses=True)
        for name in sys.argv[1:] or MEASUREMENTS:
            scenarios: list[Scenario] = []

            def new_scenario(scenarios: list[Scenario] = scenarios, **settings: str) -> Scenario:
                scenarios.append(Scenario(fork_server, client, server.url, Path(folder), settings))
                return scenarios[-1]

            print(MEASUREMENTS[name](new_scenario), flush=True)
            for pod in [pod for scenario in scenarios for pod in scenario.pods]:
                pod.remove()
        client.close()


if __name__ == "__main__":
    main()
