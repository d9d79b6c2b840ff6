"""The target of a StreamConsumer that is stored in a cluster: its spec, and the Secrets that it names."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from streamconsumer.cli.status.collect import cluster, namespace_of, resources, way_to_redis
from streamconsumer.cli.target import FROM_OUTSIDE, Target, access
from streamconsumer.errors import InvalidSettings
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.redis_monitor.probe import Place


@asynccontextmanager
async def in_cluster(options: Mapping[str, Any], environ: Mapping[str, str]) -> AsyncIterator[Target]:
    """Read the StreamConsumer and its Secrets. Certificates from Secrets exist as files until the end. Raises
    InvalidSettings and ServerUnavailable."""
    async with cluster(options["context"]) as found:
        (manifest,) = await resources(found, namespace_of(options), options["name"])
        consumer = StreamConsumer.parse(manifest)
        way = None if options["redis_url"] else await way_to_redis(found, consumer)
    if isinstance(way, str):
        raise InvalidSettings(f"StreamConsumer {consumer.namespace}/{consumer.name}: {way}; {FROM_OUTSIDE}")
    place = Place.of(consumer)
    dead_letters = options.get("dead_letter_stream") or place.dead_letters
    try:
        redis = access(way.settings.model_dump(exclude_none=True) if way else {}, options, environ)
        yield Target(redis, place.stream, place.group, dead_letters, consumer)
    finally:
        if way:
            way.close()
