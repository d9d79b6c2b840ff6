"""Servers with unexpected replies: the poller reports each as an error of its resource, within limits of memory and of
the time that one callback takes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from streamconsumer.model.processor_settings import RedisSettings
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamReason
from streamconsumer.operator.kube.secret_reader import SecretReader
from streamconsumer.operator.redis_monitor.monitored_stream import (
    EndpointId,
    MonitoredStream,
    Observation,
    ObservationEffect,
    PollTarget,
)
from streamconsumer.operator.redis_monitor.namespace_network import ConnectionLimits, NamespaceNetwork
from streamconsumer.operator.redis_monitor.poller import EndpointPoller
from streamconsumer.redis_client.credentials import RedisCredentials, no_host_lookup
from streamconsumer.redis_client.errors_table import RedisErrorInfo
from streamconsumer.redis_client.pipeline_client import PipelineClient
from tests.hostile_server import REPLIES, behaviour, hostile_server
from tests.model.examples import manifest, stored

MAX_GROWTH_BYTES = 48 * 2**20
MAX_ITERATION_SECONDS = 0.3
"""Maximum CPU time of one iteration of the event loop, which also runs the callbacks of the server."""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class LoopMonitor:
    """Measures the longest CPU time between two iterations of the event loop, and the growth of the memory."""

    def __init__(self) -> None:
        self._before = self._peak = resident_bytes()
        self.longest_seconds = 0.0

    @property
    def growth_bytes(self) -> int:
        return self._peak - self._before

    async def run(self) -> None:
        while True:
            begin = time.thread_time()
            await asyncio.sleep(0)
            self.longest_seconds = max(self.longest_seconds, time.thread_time() - begin)
            self._peak = max(self._peak, resident_bytes())
            await asyncio.sleep(0.001)


@asynccontextmanager
async def monitored_loop() -> AsyncIterator[LoopMonitor]:
    monitor = LoopMonitor()
    task = asyncio.create_task(monitor.run())
    yield monitor
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def poll_once(url: str, count: int = 1) -> list[dict[str, ConditionState]]:
    """Poll `count` StreamConsumers of one server. Returns the conditions of each."""
    observations: asyncio.Queue[Observation] = asyncio.Queue()

    def on_observation(_: MonitoredStream, observation: Observation) -> bool:
        observations.put_nowait(observation)
        return True

    def consumer(number: int) -> StreamConsumer:
        return StreamConsumer.parse(stored(manifest(redis={"url": url}, stream=f"s{number}"), f"uid-{number}", 1))

    secrets, network = SecretReader.__new__(SecretReader), NamespaceNetwork(no_host_lookup, ConnectionLimits(100))
    poller = EndpointPoller(secrets, network, consumer(0), timedelta(minutes=10), on_observation)
    running = asyncio.create_task(poller.run())
    try:
        for number in range(count):
            target = PollTarget.from_consumer(consumer(number), frozenset(), "1-0")
            key = ("shop", f"s{number}")
            poller.watch(MonitoredStream(key, EndpointId("", "", 0), lambda _: ObservationEffect(), target), target)
        async with asyncio.timeout(60):
            results = [await observations.get() for _ in range(count)]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return [{condition.type: condition for condition in result.conditions} for result in results]


ERRORS = {
    StreamReason.UNREACHABLE,
    StreamReason.UNEXPECTED_REPLY,
    StreamReason.GROUP_MISSING,
    StreamReason.SERVER_NOT_READY,
}


@pytest.mark.parametrize("name", REPLIES)
async def test_unexpected_reply_is_a_condition(name: str) -> None:
    async with hostile_server(REPLIES[name], **behaviour(name)) as url, monitored_loop() as monitor:
        (conditions,) = await poll_once(url)
    assert conditions["GroupReady"].status != "True"
    assert conditions["GroupReady"].reason in {*ERRORS, StreamReason.NO_PERMISSION}
    assert all(len(condition.message) < 2000 for condition in conditions.values())
    assert monitor.growth_bytes < MAX_GROWTH_BYTES
    assert monitor.longest_seconds < MAX_ITERATION_SECONDS


@pytest.mark.parametrize("name", REPLIES)
async def test_unexpected_reply_to_the_handshake_is_a_condition(name: str) -> None:
    async with (
        hostile_server(REPLIES[name], **behaviour(name), handshake=False) as url,
        monitored_loop() as monitor,
    ):
        (conditions,) = await poll_once(url.removesuffix("0") + "1")
        settings = RedisSettings(url=url, username="shop", password=SecretStr("secret"))
        client = PipelineClient(RedisCredentials(settings), "orders")
        replies = await client.execute([("PING",)])
        await client.close()
    assert conditions["GroupReady"].status != "True"
    assert isinstance(replies, RedisErrorInfo)
    assert "secret" not in replies.message
    assert monitor.growth_bytes < MAX_GROWTH_BYTES
    assert monitor.longest_seconds < MAX_ITERATION_SECONDS


async def test_many_resources_of_a_server_with_endless_replies_stay_within_the_limits() -> None:
    reply: Any = b"$120000\r\n" + b"x" * 120_000 + b"\r\n"
    async with hostile_server(reply) as url, monitored_loop() as monitor:
        results = await poll_once(url, 600)
    assert {conditions["GroupReady"].reason for conditions in results} == {StreamReason.UNEXPECTED_REPLY}
    assert monitor.growth_bytes < MAX_GROWTH_BYTES
