"""Where to look, from a StreamConsumer that is stored in a cluster: its spec, and the Secrets that it names."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from streamconsumer.cli.cluster.connection import cluster, namespace_of, resources, way_to_redis
from streamconsumer.cli.target import Target, of_consumer
from streamconsumer.errors import InvalidResource, InvalidSettings
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.operator.manifests.identity import child_name


@asynccontextmanager
async def in_cluster(
    options: Mapping[str, Any], environ: Mapping[str, str], advice: Callable[[str], str]
) -> AsyncIterator[Target]:
    """Certificates from Secrets are there as files until the end. `advice` returns the remedy where only pods reach
    the server; its argument is the `kubectl exec` command of a pod. Raises InvalidSettings, ServerUnavailable."""
    async with cluster(options["context"]) as found:
        (manifest,) = await resources(found, namespace_of(options), options["name"])
        consumer = _parsed(manifest)
        way = None if options["redis_url"] else await way_to_redis(found, consumer)
    if way is None:  # with another way to the same server come credentials of its own
        yield of_consumer(consumer, {}, options, environ)
        return
    if isinstance(way, str):
        raise InvalidSettings(f"{_name(consumer)}: {way}; {advice(_exec(consumer, options))}")
    try:
        target = of_consumer(consumer, way.settings.model_dump(exclude_none=True), options, environ)
        yield replace(target, advice=f"where only pods reach it, {advice(_exec(consumer, options))}")
    finally:
        way.close()


def _parsed(manifest: dict[str, Any]) -> StreamConsumer:
    try:
        return StreamConsumer.parse(manifest)
    except InvalidResource as error:
        raise InvalidSettings(str(error)) from None


def _name(consumer: StreamConsumer) -> str:
    return f"StreamConsumer {consumer.namespace}/{consumer.name}"


def _exec(consumer: StreamConsumer, options: Mapping[str, Any]) -> str:
    context = f"--context {options['context']} " if options["context"] else ""
    return f"kubectl {context}-n {consumer.namespace} exec deploy/{child_name(consumer)}"
