"""The Redis monitor starts and stops the polling of streams, and decides which poll results the status shows."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from weakref import WeakValueDictionary

from streamconsumer.model.redis_url import parse_redis_url
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.secret_reader import SecretReader
from streamconsumer.operator.redis_monitor.destinations import Destinations
from streamconsumer.operator.redis_monitor.dns import NameServers, NamespaceResolver, read_search_options
from streamconsumer.operator.redis_monitor.monitored_stream import (
    EndpointId,
    MonitoredStream,
    Observation,
    ObservationEffect,
    PollTarget,
)
from streamconsumer.operator.redis_monitor.namespace_network import ConnectionLimits, NamespaceNetwork, max_connections
from streamconsumer.operator.redis_monitor.poller import EndpointPoller
from streamconsumer.redis_client.keys import hash_slot

PUBLISH_INTERVAL = timedelta(seconds=30)
"""Minimum time between two status writes that change only statistics. Each write puts load on the API server and on all
watchers."""


class RedisMonitor:
    """Polls the streams that the reconciler passes to `watch`, with one poller per Redis endpoint.

    When the status of a StreamConsumer must change, the monitor enqueues the key of this StreamConsumer."""

    def __init__(
        self,
        secrets: SecretReader,
        enqueue: Callable[[Key], None],
        *,
        interval: timedelta,
        destinations: Destinations,
    ) -> None:
        self._secrets, self._enqueue, self._interval = secrets, enqueue, interval
        self._destinations, self._name_servers, self._search = destinations, NameServers(), read_search_options()
        self._limits = ConnectionLimits(max_connections())
        self._networks: WeakValueDictionary[str, NamespaceNetwork] = WeakValueDictionary()
        """The network access of each namespace that has a poller."""
        self._pollers: dict[EndpointId, tuple[EndpointPoller, asyncio.Task[None]]] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def watch(
        self,
        stream: MonitoredStream | None,
        consumer: StreamConsumer,
        target: PollTarget,
        on_observation: Callable[[Observation], ObservationEffect],
    ) -> MonitoredStream:
        """Start or continue to poll the stream of this StreamConsumer.

        `stream` is the object that the previous call returned, or None in the first call. If the StreamConsumer now
        uses another Redis endpoint, the history in `stream` is dropped. Returns the object to pass as `stream` in the
        next call."""
        endpoint_id = _endpoint_id(consumer)
        if stream is not None and stream.endpoint_id != endpoint_id:
            self.unwatch(stream)
            stream = None
        if stream is None:
            stream = MonitoredStream((consumer.namespace, consumer.name), endpoint_id, on_observation, target)
        self._poller(endpoint_id, consumer).watch(stream, target)
        return stream

    def unwatch(self, stream: MonitoredStream) -> None:
        """Stop polling the stream. If the endpoint has no other stream, close the connection."""
        poller, task = self._pollers[stream.endpoint_id]
        poller.unwatch(stream)
        if not poller.streams:
            del self._pollers[stream.endpoint_id]
            task.cancel()
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def poll_namespace(self, namespace: str) -> None:
        """Immediately poll all streams of the StreamConsumers in this namespace, because the permission to read its
        Secrets has changed."""
        for endpoint_id, (poller, _) in self._pollers.items():
            if endpoint_id.namespace == namespace:
                poller.poll_all_soon()

    async def aclose(self) -> None:
        """Stop all pollers and close their connections."""
        tasks = [task for _, task in self._pollers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._stopping, return_exceptions=True)
        await self._name_servers.aclose()

    def _poller(self, endpoint_id: EndpointId, first: StreamConsumer) -> EndpointPoller:
        if endpoint_id not in self._pollers:
            network = self._network(first.namespace)
            poller = EndpointPoller(self._secrets, network, first, self._interval, self._publish)
            self._pollers[endpoint_id] = poller, asyncio.create_task(poller.run())
        return self._pollers[endpoint_id][0]

    def _network(self, namespace: str) -> NamespaceNetwork:
        network = self._networks.get(namespace)
        if network is None:
            resolver = NamespaceResolver(namespace, self._name_servers, self._destinations, self._search)
            network = self._networks[namespace] = NamespaceNetwork(resolver.resolve, self._limits)
        return network

    def _publish(self, stream: MonitoredStream, observation: Observation) -> bool:
        """Store an observation, and request a reconcile if the status must show the observation.

        A changed condition or scaling decision is published immediately. Changed statistics are published at most once
        per PUBLISH_INTERVAL. Returns True if the StreamConsumer is scaled to zero."""
        stream.latest, published = observation, stream.published
        effect = stream.on_observation(observation)
        now = asyncio.get_running_loop().time()
        if published is None or effect.decision_changed or observation.condition_key != published.condition_key:
            must_publish = True
        else:
            is_due = now - stream.published_seconds >= PUBLISH_INTERVAL.total_seconds()
            must_publish = is_due and observation.stats != published.stats
        if must_publish:
            stream.published, stream.published_seconds = observation, now
            self._enqueue(stream.key)
        return effect.scaled_to_zero


def _endpoint_id(consumer: StreamConsumer) -> EndpointId:
    """Return the identity of the StreamConsumer's Redis endpoint.

    The URL is compared in a normalized form, without the options that only pods use. For a Redis Cluster, the identity
    contains the hash slot, because the slots are on different nodes."""
    redis = consumer.spec.redis
    url = parse_redis_url(redis.url).endpoint if redis.url else None
    slot = hash_slot(consumer.spec.stream.encode()) if redis.cluster else 0
    return EndpointId(consumer.namespace, redis.model_copy(update={"url": url}).model_dump_json(), slot)
