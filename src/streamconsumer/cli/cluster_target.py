"""Finds the Redis server, the stream and the group of a StreamConsumer in the cluster.

The values come from the spec and from the Secrets that the spec references.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from streamconsumer.cli.status.collect import kube_client, list_consumers, namespace_of, resolve_redis_settings
from streamconsumer.cli.target import OUTSIDE_CLUSTER_HINT, Target, redis_settings
from streamconsumer.errors import InvalidSettings
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.redis_monitor.probe import GroupRef


@asynccontextmanager
async def target_from_cluster(options: Mapping[str, Any], environ: Mapping[str, str]) -> AsyncIterator[Target]:
    """Read the StreamConsumer and its Secrets and yield the target. Raises InvalidSettings and BackendUnavailable."""
    async with kube_client(options["context"]) as client:
        (manifest,) = await list_consumers(client, namespace_of(options), options["name"])
        consumer = StreamConsumer.parse(manifest)
        resolved = None if options["redis_url"] else await resolve_redis_settings(client, consumer)
    if isinstance(resolved, str):
        problem = f"StreamConsumer {consumer.namespace}/{consumer.name}: {resolved}"
        raise InvalidSettings(f"{problem}; {OUTSIDE_CLUSTER_HINT}")
    group = GroupRef.from_consumer(consumer)
    dead_letters = options.get("dead_letter_stream") or group.dead_letters
    redis = redis_settings(
        resolved.credentials.settings.model_dump(exclude_none=True) if resolved else {}, options, environ
    )
    yield Target(redis, group.stream, group.group, dead_letters, consumer)
