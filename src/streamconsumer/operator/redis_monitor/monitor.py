"""Whom the operator looks at in Redis, and what of it is worth telling."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from streamconsumer.model.spec import RedisSpec, StreamConsumer
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.client import KubeClient
from streamconsumer.operator.manifests.redis_secrets import secret_files
from streamconsumer.operator.redis_monitor.dns import is_relative
from streamconsumer.operator.redis_monitor.poller import EndpointPoller, Observation, PollTarget
from streamconsumer.redis_client.keys import hash_slot

PUBLISH_INTERVAL = timedelta(seconds=30)
"""Figures that move are told this often at most: each time is a write for the API server and for all who watch."""

EndpointId = tuple[str, str, int]


@dataclass
class PublishedObservation:
    """What was told last of one StreamConsumer, and when."""

    observation: Observation
    at_seconds: float


@dataclass(frozen=True)
class ObservationEffect:
    """What became of a look."""

    scaled_to_zero: bool = False
    """Whether there is nobody to notice the next entry."""
    decision_changed: bool = False
    """Whether something else was decided by it than before: then its figures are to be seen beside the decision."""


class RedisMonitor:
    """Begins to look when it is asked to attend to a StreamConsumer; wakes its key when there is something to tell."""

    def __init__(
        self,
        kube: KubeClient,
        enqueue: Callable[[Key], None],
        *,
        interval: timedelta,
        on_observation: Callable[[Key, Observation], ObservationEffect],
    ) -> None:
        """`looked` hears of every look."""
        self._on_observation = on_observation
        self._kube, self._enqueue, self._interval = kube, enqueue, interval
        self._pollers: dict[EndpointId, tuple[EndpointPoller, asyncio.Task[None]]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._endpoint_ids: dict[Key, EndpointId] = {}
        self._published: dict[Key, PublishedObservation] = {}
        self._latest: dict[Key, Observation] = {}

    def watch(
        self, consumer: StreamConsumer, pods: frozenset[str], last_delivered_id: str | None, *, pod_has_run: bool
    ) -> None:
        """Look at this one from now on, with these pods; `one_ran`: see `Member`."""
        key, identity = (consumer.namespace, consumer.name), _endpoint_id(consumer)
        if self._endpoint_ids.get(key, identity) != identity:
            self.unwatch(key)
        self._endpoint_ids[key] = identity
        self._poller(identity, consumer).watch(
            key, PollTarget.from_consumer(consumer, pods, last_delivered_id, pod_has_run=pod_has_run)
        )

    def unwatch(self, key: Key) -> None:
        """Look no more; the last one to go closes the connection."""
        identity = self._endpoint_ids.pop(key, None)
        self._published.pop(key, None)
        self._latest.pop(key, None)
        if identity is None:
            return
        endpoint, task = self._pollers[identity]
        endpoint.unwatch(key)
        if not endpoint.targets:
            del self._pollers[identity]
            task.cancel()
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    def published(self, key: Key) -> Observation | None:
        """What is to stand in the status; None where nobody has looked yet."""
        telling = self._published.get(key)
        return telling.observation if telling else None

    def latest(self, key: Key) -> Observation | None:
        """What the last look found; None of whom nobody looks at."""
        return self._latest.get(key)

    async def aclose(self) -> None:
        """Hang up everywhere."""
        tasks = [task for _, task in self._pollers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._stopping, return_exceptions=True)

    def _poller(self, endpoint_id: EndpointId, first: StreamConsumer) -> EndpointPoller:
        if endpoint_id not in self._pollers:
            endpoint = EndpointPoller(self._kube, first, self._interval, self._publish)
            self._pollers[endpoint_id] = endpoint, asyncio.create_task(endpoint.run())
        return self._pollers[endpoint_id][0]

    def _publish(self, key: Key, observation: Observation) -> bool:
        """Conditions at once, figures at most every TELL_EVERY, and nothing when nothing changed."""
        self._latest[key] = observation
        heard = self._on_observation(key, observation)
        now, before = asyncio.get_running_loop().time(), self._published.get(key)
        if before is None or heard.decision_changed or observation.condition_key != before.observation.condition_key:
            worth_it = True
        else:
            due = now - before.at_seconds >= PUBLISH_INTERVAL.total_seconds()
            worth_it = due and observation.stats != before.observation.stats
        if worth_it:
            self._published[key] = PublishedObservation(observation, now)
            self._enqueue(key)
        return heard.scaled_to_zero


def _endpoint_id(consumer: StreamConsumer) -> EndpointId:
    """Who shares a connection: the same server by the same words, in one namespace where these mean something else in
    another; and in a Cluster the same slot, which some node has."""
    redis = consumer.spec.redis
    namespace = consumer.namespace if any(secret_files(redis)) or any(map(is_relative, _hosts(redis))) else ""
    slot = hash_slot(consumer.spec.stream.encode()) if redis.cluster else 0
    return namespace, redis.model_dump_json(), slot


def _hosts(redis: RedisSpec) -> list[str]:
    """Those that are written down; what a URL in a Secret says is not known here."""
    url = urlsplit(redis.url).hostname if redis.url else None
    nodes = redis.sentinel.nodes if redis.sentinel else []
    return [*([url] if url else []), *(node.rpartition(":")[0].strip("[]") for node in nodes)]
