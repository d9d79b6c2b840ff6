"""Polls of one endpoint between calls of the reconciler, with a real Redis server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import ConditionState, StreamReason
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.redis_monitor.monitored_stream import (
    EndpointId,
    MonitoredStream,
    Observation,
    ObservationEffect,
    PollTarget,
)
from streamconsumer.operator.redis_monitor.namespace_network import ConnectionLimits, NamespaceNetwork
from streamconsumer.operator.redis_monitor.poller import EndpointPoller
from streamconsumer.operator.redis_monitor.probe import ProbeResult
from streamconsumer.redis_client.credentials import no_host_lookup
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest, stored
from tests.operator.redis_operator import redis_client

KEY = ("shop", "orders")


class ObservedPoller(EndpointPoller):
    """Poller that sets an event when a probe starts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.probe_started = asyncio.Event()

    async def _probe(self, targets: Mapping[Key, PollTarget]) -> dict[Key, ProbeResult]:
        self.probe_started.set()
        return await super()._probe(targets)


class PollerFixture:
    """Poller of one server, and its observations."""

    def __init__(self, server: RedisServer) -> None:
        self.redis = {"url": f"redis://{server.host}:{server.port}/0"}
        self.observations: asyncio.Queue[Observation] = asyncio.Queue()
        self.streams: dict[Key, MonitoredStream] = {}
        kube = KubeClient.__new__(KubeClient)  # not connected: there are no Secrets to read
        network = NamespaceNetwork(no_host_lookup, ConnectionLimits(100))
        self.poller = ObservedPoller(kube, network, self.consumer(), timedelta(minutes=10), self._on_observation)

    def _on_observation(self, _: MonitoredStream, observation: Observation) -> bool:
        self.observations.put_nowait(observation)
        return False

    def consumer(self, uid: str = "one", generation: int = 1, **spec: Any) -> StreamConsumer:
        return StreamConsumer.parse(stored(manifest(redis=self.redis, **spec), uid, generation))

    def watch(self, key: Key = KEY, **spec: Any) -> None:
        """Poll a StreamConsumer that has a pod."""
        target = PollTarget.from_consumer(self.consumer(**spec), frozenset({"a-pod"}), None)
        stream = self.streams.setdefault(
            key, MonitoredStream(key, EndpointId("", "", 0), lambda _: ObservationEffect(), target)
        )
        self.poller.watch(stream, target)

    def unwatch(self) -> None:
        self.poller.unwatch(self.streams.pop(KEY))

    async def next_conditions(self) -> dict[str, ConditionState]:
        async with asyncio.timeout(20):
            observation = await self.observations.get()
        return {condition.type: condition for condition in observation.conditions}


@asynccontextmanager
async def running_poller(server: RedisServer) -> AsyncIterator[PollerFixture]:
    fixture = PollerFixture(server)
    running = asyncio.create_task(fixture.poller.run())
    try:
        yield fixture
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_probe_of_a_deleted_resource_is_not_reported_for_its_successor(start_redis: StartRedis) -> None:
    """The new resource of the same name reads another stream and is created during the probe."""
    server = start_redis()
    async with running_poller(server) as fixture:
        fixture.watch(("shop", "other"), stream="elsewhere")
        await fixture.next_conditions()
        server.pause()
        try:
            fixture.poller.probe_started.clear()
            fixture.watch(stream="orders")
            async with asyncio.timeout(20):
                await fixture.poller.probe_started.wait()
            fixture.unwatch()
            fixture.watch(uid="two", stream="returns")
        finally:
            server.resume()
        assert "'returns'" in (await fixture.next_conditions())["GroupReady"].message


async def test_stream_stays_healthy_when_its_dead_letter_stream_changes(redis_server: RedisServer) -> None:
    redis = redis_client(redis_server)
    redis.xgroup_create("orders", "billing", "0", mkstream=True)
    redis.xadd("old-letters", {"n": 1})
    async with running_poller(redis_server) as fixture:
        fixture.watch()
        assert (await fixture.next_conditions())["Degraded"].reason == StreamReason.HEALTHY
        fixture.watch(generation=2, delivery={"deadLetterStream": "old-letters"})
        assert (await fixture.next_conditions())["Degraded"].reason == StreamReason.HEALTHY
    redis.close()


class SwallowingPoller(ObservedPoller):
    """Poller whose Redis library swallows a cancellation."""

    async def _probe(self, targets: Mapping[Key, PollTarget]) -> dict[Key, ProbeResult]:
        self.probe_started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return {}


async def test_poller_ends_when_a_poll_swallows_the_cancellation(redis_server: RedisServer) -> None:
    fixture = PollerFixture(redis_server)
    fixture.poller.__class__ = SwallowingPoller
    running = asyncio.create_task(fixture.poller.run())
    fixture.watch()
    async with asyncio.timeout(20):
        await fixture.poller.probe_started.wait()
        running.cancel()
        await asyncio.wait({running})
