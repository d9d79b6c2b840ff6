"""Workload: the time that an idle processor needs to stop."""

import asyncio
import random
from contextlib import ExitStack

import uvloop

from benchmarks.contenders.harness import CONSUMER, GROUP, STREAM
from benchmarks.figures import percentile
from benchmarks.handlers import noop
from benchmarks.pods import Pod
from benchmarks.results import Goal, Section
from benchmarks.runs import connect, reset_server
from streamconsumer.processor import RedisStreamProcessor, StreamManager
from tests.cluster.redis_servers import RedisServer

ROUNDS = 4
PODS = 5
STOPS = 50
"""Stops per round, in one process."""

HEAD = ["operation", "runs", "p50 ms", "p99 ms", "max ms"]


def measure(number: int) -> Section:
    """Measure `stop_listening` within a process, and SIGTERM until the exit of a pod's process."""
    with RedisServer() as server:
        with connect(server.url) as client:
            reset_server(client)
        listening = uvloop.run(_measure_stop_listening(server.url, STOPS * number))
        pods = [took for _ in range(number) for took in _measure_sigterm(server.url)]
        facts = f"Redis {server.version} on loopback, an idle processor whose read is blocked in Redis."
    rows = [_row("stop_listening() until it returns", listening), _row("SIGTERM to exit of a pod's process", pods)]
    goals = [Goal("p99 of stopping an idle processor", "under", 50, percentile(listening, 99) * 1000, 1, "ms")]
    return Section("stop", facts, HEAD, rows, goals)


async def _measure_stop_listening(url: str, times: int) -> list[float]:
    clock, took = asyncio.get_running_loop().time, []
    for _ in range(times):
        manager = StreamManager.from_url(url)
        processor = RedisStreamProcessor(manager, STREAM, GROUP, CONSUMER)
        processor.set_message_callback(noop)
        await processor.start_listening()
        await asyncio.sleep(random.uniform(0, 0.05))
        began = clock()
        await processor.stop_listening()
        took.append(clock() - began)
        await manager.aclose()
    return took


def _measure_sigterm(url: str) -> list[float]:
    """Start PODS pods and stop them one after the other. Returns the seconds of each stop."""
    settings = {"stream": STREAM, "consumer_group": GROUP}
    with ExitStack() as stack:
        pods = [stack.enter_context(Pod(url, "noop", f"pod-{number}", **settings)) for number in range(PODS)]
        for pod in pods:
            pod.wait_until_started()
        return [pod.stop() for pod in pods]


def _row(name: str, seconds: list[float]) -> list[str]:
    return [name, str(len(seconds)), *(f"{percentile(seconds, percent) * 1000:.1f}" for percent in (50, 99, 100))]
