"""Whom the operator looks at in Redis, and what of it is worth telling."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from streamconsumer.model.spec import Redis, StreamConsumer
from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.kube.client import Cluster
from streamconsumer.operator.manifests.redis_secrets import files
from streamconsumer.operator.redis_monitor.dns import is_relative
from streamconsumer.operator.redis_monitor.poller import Endpoint, Member, Observation
from streamconsumer.redis_client.keys import hash_slot

TELL_EVERY = timedelta(seconds=30)
"""Figures that move are told this often at most: each time is a write for the API server and for all who watch."""

Identity = tuple[str, str, int]


@dataclass
class Telling:
    """What was told last of one StreamConsumer, and when."""

    observation: Observation
    at_seconds: float


@dataclass(frozen=True)
class Heard:
    """What became of a look."""

    asleep: bool = False
    """Whether there is nobody to notice the next entry."""
    decided: bool = False
    """Whether something else was decided by it than before: then its figures are to be seen beside the decision."""


class Streams:
    """Begins to look when it is asked to attend to a StreamConsumer; wakes its key when there is something to tell."""

    def __init__(
        self,
        cluster: Cluster,
        wake: Callable[[Key], None],
        *,
        interval: timedelta,
        looked: Callable[[Key, Observation], Heard],
    ) -> None:
        """`looked` hears of every look."""
        self._looked = looked
        self._cluster, self._wake, self._interval = cluster, wake, interval
        self._endpoints: dict[Identity, tuple[Endpoint, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._places: dict[Key, Identity] = {}
        self._told: dict[Key, Telling] = {}
        self._latest: dict[Key, Observation] = {}

    def attend(
        self, consumer: StreamConsumer, pods: frozenset[str], last_delivered: str | None, *, one_ran: bool
    ) -> None:
        """Look at this one from now on, with these pods; `one_ran`: see `Member`."""
        key, identity = (consumer.namespace, consumer.name), _identity(consumer)
        if self._places.get(key, identity) != identity:
            self.forget(key)
        self._places[key] = identity
        self._endpoint(identity, consumer).attend(key, Member.of(consumer, pods, last_delivered, one_ran=one_ran))

    def forget(self, key: Key) -> None:
        """Look no more; the last one to go closes the connection."""
        identity = self._places.pop(key, None)
        self._told.pop(key, None)
        self._latest.pop(key, None)
        if identity is None:
            return
        endpoint, task = self._endpoints[identity]
        endpoint.forget(key)
        if not endpoint.members:
            del self._endpoints[identity]
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def told(self, key: Key) -> Observation | None:
        """What is to stand in the status; None where nobody has looked yet."""
        telling = self._told.get(key)
        return telling.observation if telling else None

    def latest(self, key: Key) -> Observation | None:
        """What the last look found; None of whom nobody looks at."""
        return self._latest.get(key)

    async def aclose(self) -> None:
        """Hang up everywhere."""
        tasks = [task for _, task in self._endpoints.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)

    def _endpoint(self, identity: Identity, first: StreamConsumer) -> Endpoint:
        if identity not in self._endpoints:
            endpoint = Endpoint(self._cluster, first, self._interval, self._tell)
            self._endpoints[identity] = endpoint, asyncio.create_task(endpoint.run())
        return self._endpoints[identity][0]

    def _tell(self, key: Key, found: Observation) -> bool:
        """Conditions at once, figures at most every TELL_EVERY, and nothing when nothing changed."""
        self._latest[key] = found
        heard = self._looked(key, found)
        now, before = asyncio.get_running_loop().time(), self._told.get(key)
        if before is None or heard.decided or found.gist != before.observation.gist:
            worth_it = True
        else:
            due = now - before.at_seconds >= TELL_EVERY.total_seconds()
            worth_it = due and found.figures != before.observation.figures
        if worth_it:
            self._told[key] = Telling(found, now)
            self._wake(key)
        return heard.asleep


def _identity(consumer: StreamConsumer) -> Identity:
    """Who shares a connection: the same server by the same words, in one namespace where these mean something else in
    another; and in a Cluster the same slot, which some node has."""
    redis = consumer.spec.redis
    namespace = consumer.namespace if any(files(redis)) or any(map(is_relative, _hosts(redis))) else ""
    slot = hash_slot(consumer.spec.stream.encode()) if redis.cluster else 0
    return namespace, redis.model_dump_json(), slot


def _hosts(redis: Redis) -> list[str]:
    """Those that are written down; what a URL in a Secret says is not known here."""
    url = urlsplit(redis.url).hostname if redis.url else None
    nodes = redis.sentinel.nodes if redis.sentinel else []
    return [*([url] if url else []), *(node.rpartition(":")[0].strip("[]") for node in nodes)]
