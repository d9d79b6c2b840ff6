"""Looks of one endpoint, between the calls of the reconciler. The server is real."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
from streamconsumer.operator.redis_monitor.poller import EndpointPoller
from streamconsumer.operator.redis_monitor.probe import ProbeResult
from tests.cluster.redis_servers import RedisServer, StartRedis
from tests.model.examples import manifest, stored
from tests.operator.looking import redis_client

KEY = ("shop", "orders")


class Watched(EndpointPoller):
    """Says when it asks."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.asked = asyncio.Event()

    async def _probe(self, targets: Mapping[Key, PollTarget]) -> dict[Key, ProbeResult]:
        self.asked.set()
        return await super()._probe(targets)


class Setting:
    """An endpoint at a server, and what it tells."""

    def __init__(self, server: RedisServer) -> None:
        self.redis = {"url": f"redis://{server.host}:{server.port}/0"}
        self.told: asyncio.Queue[Observation] = asyncio.Queue()
        self.streams: dict[Key, MonitoredStream] = {}
        first, nobody = self.consumer(), KubeClient.__new__(KubeClient)  # there are no Secrets to read
        self.endpoint = Watched(nobody, first, timedelta(minutes=10), self._tell)

    def _tell(self, _: MonitoredStream, found: Observation) -> bool:
        self.told.put_nowait(found)
        return False

    def consumer(self, uid: str = "one", generation: int = 1, **spec: Any) -> StreamConsumer:
        return StreamConsumer.parse(stored(manifest(redis=self.redis, **spec), uid, generation))

    def attend(self, key: Key = KEY, **given: Any) -> None:
        """With a pod: no group is created."""
        target = PollTarget.from_consumer(self.consumer(**given), frozenset({"a-pod"}), None, pod_has_run=True)
        stream = self.streams.setdefault(
            key, MonitoredStream(key, EndpointId("", "", 0), lambda _: ObservationEffect(), target)
        )
        self.endpoint.watch(stream, target)

    def unwatch(self) -> None:
        self.endpoint.unwatch(self.streams.pop(KEY))

    async def next(self) -> dict[str, ConditionState]:
        async with asyncio.timeout(20):
            return {each.type: each for each in (await self.told.get()).conditions}


@asynccontextmanager
async def looking(server: RedisServer) -> AsyncIterator[Setting]:
    setting = Setting(server)
    running = asyncio.create_task(setting.endpoint.run())
    try:
        yield setting
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_a_look_finds_of_an_earlier_life_is_not_told_of_the_next(start_redis: StartRedis) -> None:
    """One of the same name that reads another stream came while the server had the question."""
    server = start_redis()
    async with looking(server) as setting:
        setting.attend(("shop", "other"), stream="elsewhere")
        await setting.next()
        server.pause()
        try:
            setting.endpoint.asked.clear()
            setting.attend(stream="orders")
            async with asyncio.timeout(20):
                await setting.endpoint.asked.wait()
            setting.unwatch()
            setting.attend(uid="two", stream="returns")
        finally:
            server.resume()
        assert "'returns'" in (await setting.next())["GroupReady"].message


async def test_letters_in_another_stream_for_dead_letters_are_no_growth(redis_server: RedisServer) -> None:
    redis = redis_client(redis_server)
    redis.xgroup_create("orders", "billing", "0", mkstream=True)
    redis.xadd("old-letters", {"n": 1})
    async with looking(redis_server) as setting:
        setting.attend()
        assert (await setting.next())["Degraded"].reason == StreamReason.HEALTHY
        setting.attend(generation=2, delivery={"deadLetterStream": "old-letters"})
        assert (await setting.next())["Degraded"].reason == StreamReason.HEALTHY
    redis.close()
