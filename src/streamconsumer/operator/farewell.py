"""What is left to do when a StreamConsumer with `groupDeletionPolicy: Delete` goes: its pods end, then its group.

Our finalizer holds the resource that long, and Kubernetes therefore does not end the pods by itself: we delete the
Deployment. Nothing here may hang: what cannot be done in time is left undone and told, and the resource is let go.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from streamconsumer.errors import InvalidResource
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.cluster import Cluster
from streamconsumer.operator.kept import mapping
from streamconsumer.operator.manifests import Manifest
from streamconsumer.operator.queue import Key
from streamconsumer.operator.store import Store
from streamconsumer.operator.streams.watch import Streams

LOOK_AGAIN = timedelta(seconds=5)
ENDING = timedelta(seconds=2)
"""After the Deployment its ReplicaSet goes, and might make one more pod until then."""

log = logging.getLogger(__name__)

Record = Callable[..., Awaitable[None]]


@dataclass
class Farewell:
    """Sees StreamConsumers off."""

    cluster: Cluster
    store: Store
    streams: Streams
    record: Record
    """Writes an Event: manifest, reason, sentence, and whether it is a warning."""
    bound: timedelta
    """From the deletion on. Where there are pods, their drain comes before."""

    async def hold_if_wanted(self, manifest: Manifest, consumer: StreamConsumer) -> Manifest:
        """Have our finalizer on a StreamConsumer that lives, exactly where its group is to go with it. Returns it."""
        wanted = consumer.spec.group_deletion_policy == "Delete"
        if wanted == held(manifest):
            return manifest
        written = await (self.cluster.hold(manifest) if wanted else self.cluster.release(manifest))
        current = {**manifest, **written}
        self.store.put(current)
        return current

    async def see_off(self, key: Key, manifest: Manifest) -> timedelta | None:
        """Do what is left to do. Returns after how long to look again; None when it is let go."""
        try:
            consumer = StreamConsumer.parse(manifest)
        except InvalidResource as error:
            await self._let_go(manifest, f"it is not known where it is: {error}")
            return None
        if consumer.spec.group_deletion_policy == "Delete":
            if await self._end_pods(key, consumer):
                return ENDING
            why, for_good = await self._destroyed(key, consumer)
            if why and not for_good and not self._late(key, manifest, consumer):
                return LOOK_AGAIN
            await self._let_go(manifest, why)
            return None
        await self.cluster.release(manifest)
        return None

    async def _destroyed(self, key: Key, consumer: StreamConsumer) -> tuple[str, bool]:
        """Why the group is still there, or nothing; and whether trying again is pointless."""
        if pods := self.store.pods(key):
            return f"these pods have not ended: {', '.join(sorted(pod['metadata']['name'] for pod in pods))}", False
        if peer := self._peer(key, consumer):
            return f"StreamConsumer {'/'.join(peer)} reads by it too", True
        return await self.streams.destroy_group(consumer), False

    async def _end_pods(self, key: Key, consumer: StreamConsumer) -> bool:
        """Whether there was anything to end."""
        alive = [
            child
            for child in self.store.owned(key, consumer.uid)
            if child["kind"] == "Deployment" and "deletionTimestamp" not in child["metadata"]
        ]
        for child in alive:
            await self.cluster.delete(child)
            self.store.drop(child)
        return bool(alive)

    def _peer(self, key: Key, consumer: StreamConsumer) -> Key | None:
        """Another StreamConsumer that reads by the same group: it would lose its place."""
        mine = _home(consumer.spec.model_dump(by_alias=True))
        return next(
            (
                other
                for other, manifest in self.store.consumers.items()
                if other != key
                and "deletionTimestamp" not in manifest["metadata"]
                and _home(mapping(manifest.get("spec"))) == mine
            ),
            None,
        )

    def _late(self, key: Key, manifest: Manifest, consumer: StreamConsumer) -> bool:
        """A drain takes its time; what is there to do once there are no pods does not."""
        since = datetime.fromisoformat(manifest["metadata"]["deletionTimestamp"])
        drain = consumer.spec.drain_timeout if self.store.pods(key) else timedelta()
        return datetime.now(UTC) - since > self.bound + drain

    async def _let_go(self, manifest: Manifest, why: str) -> None:
        """Say what became of the group, and let Kubernetes delete the rest."""
        spec = mapping(manifest.get("spec"))
        group = f"Group {spec.get('consumerGroup')!r} of stream {spec.get('stream')!r}"
        if why:
            await self.record(manifest, "GroupKept", f"{group} is not destroyed: {why}", warning=True)
        else:
            await self.record(manifest, "GroupDestroyed", f"{group} is destroyed", warning=False)
        await self.cluster.release(manifest)


def held(manifest: Manifest) -> bool:
    """Whether our finalizer is on it."""
    return names.FINALIZER in manifest["metadata"].get("finalizers", [])


def _home(spec: Manifest) -> tuple[object, ...]:
    """Where a group is, as far as it can be compared: a URL that is in a Secret is known by the Secret's name."""
    redis = mapping(spec.get("redis"))
    sentinel = mapping(redis.get("sentinel"))
    places = redis.get("url"), str(redis.get("urlSecretRef") or ""), str(sentinel.get("nodes") or "")
    return (spec.get("stream"), spec.get("consumerGroup"), *places)
