"""Looks of one endpoint, between the calls of the reconciler. The server is real."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.cluster import Cluster
from streamconsumer.operator.queue import Key
from streamconsumer.operator.streams.endpoint import Endpoint, Member, Observation
from streamconsumer.operator.streams.sight import Sight
from tests.cluster.redis_servers import StartRedis
from tests.model.examples import manifest, stored

KEY = ("shop", "orders")


class Watched(Endpoint):
    """Says when it asks."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.asked = asyncio.Event()

    async def _sights(self, members: Mapping[Key, Member]) -> dict[Key, Sight]:
        self.asked.set()
        return await super()._sights(members)


async def test_what_a_look_finds_of_an_earlier_life_is_not_told_of_the_next(start_redis: StartRedis) -> None:
    """One of the same name that reads another stream came while the server had the question."""
    server = start_redis()
    url = f"redis://{server.host}:{server.port}/0"
    told: asyncio.Queue[Observation] = asyncio.Queue()

    def tell(_: Key, found: Observation) -> bool:
        told.put_nowait(found)
        return False

    def member(uid: str, stream: str) -> Member:
        given = StreamConsumer.parse(stored(manifest(redis={"url": url}, stream=stream), uid=uid))
        return Member.of(given, frozenset({"a-pod"}), None)

    first = StreamConsumer.parse(stored(manifest(redis={"url": url})))
    endpoint = Watched(Cluster.__new__(Cluster), first, timedelta(minutes=10), tell, read_secrets=False)
    running = asyncio.create_task(endpoint.run())
    try:
        endpoint.attend(("shop", "other"), member("other", "elsewhere"))
        await asyncio.wait_for(told.get(), 20)
        server.pause()
        endpoint.asked.clear()
        endpoint.attend(KEY, member("one", "orders"))
        await asyncio.wait_for(endpoint.asked.wait(), 20)
        endpoint.forget(KEY)
        endpoint.attend(KEY, member("two", "returns"))
        server.resume()
        found = await asyncio.wait_for(told.get(), 20)
        assert "returns" in found.facts[1].message
    finally:
        server.resume()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
