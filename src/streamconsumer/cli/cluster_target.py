"""The target of a StreamConsumer that is stored in a cluster: its spec, and the Secrets that it names."""

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
    """Read the StreamConsumer and its Secrets. Certificates from Secrets exist as files until the end. Raises
    InvalidSettings and BackendUnavailable."""
    async with kube_client(options["context"]) as found:
        (manifest,) = await list_consumers(found, namespace_of(options), options["name"])
        consumer = StreamConsumer.parse(manifest)
        way = None if options["redis_url"] else await resolve_redis_settings(found, consumer)
    if isinstance(way, str):
        raise InvalidSettings(f"StreamConsumer {consumer.namespace}/{consumer.name}: {way}; {OUTSIDE_CLUSTER_HINT}")
    place = GroupRef.from_consumer(consumer)
    dead_letters = options.get("dead_letter_stream") or place.dead_letters
    try:
        redis = redis_settings(way.settings.model_dump(exclude_none=True) if way else {}, options, environ)
        yield Target(redis, place.stream, place.group, dead_letters, consumer)
    finally:
        if way:
            way.close()
