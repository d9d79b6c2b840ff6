"""Reads the state of StreamConsumers from the Kubernetes API and from Redis, with the permissions of the caller.

The kubeconfig selects the API server, as for kubectl. The Redis settings come from the spec and from the Secrets that
the spec references.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar

from streamconsumer.cli.status.facts import ConsumerFacts, Facts, PendingEntryFacts, RedisView, from_manifests
from streamconsumer.cli.status.findings import INSTALL_COMMAND
from streamconsumer.errors import ApiThrottled, BackendUnavailable, InvalidResource, InvalidSettings, PermissionDenied
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer

try:
    from aiohttp import ClientError

    from streamconsumer.operator.kube.api import ApiError, NotFound, api_error_message, connect, default_namespace
    from streamconsumer.operator.kube.client import KubeClient
    from streamconsumer.operator.kube.paths import label_selector
    from streamconsumer.operator.redis_monitor.probe import (
        COMMANDS_PER_PROBE,
        GroupRef,
        ProbeResult,
        parse_probe,
        probe_commands,
    )
    from streamconsumer.operator.redis_monitor.secret_resolver import ResolvedRedis, resolve_redis_spec
    from streamconsumer.redis_client import replies
    from streamconsumer.redis_client.errors_table import RedisErrorInfo
    from streamconsumer.redis_client.pipeline_client import Command, PipelineClient
    from streamconsumer.redis_client.replies import UnexpectedReply
    from streamconsumer.redis_client.scripts import LIST_CONSUMERS, LIST_PENDING
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[operator]") from None

REDIS_TIMEOUT_SECONDS = 2.0
"""Time limit for a Redis command. The limit is short, because Redis is often unreachable from outside the cluster."""

MAX_CONCURRENT = 32
"""Maximum number of StreamConsumers that are read at the same time."""

MAX_CONSUMERS = 100
"""Maximum number of consumers that are read. The consumers with the most pending entries are selected."""

MAX_PENDING_ENTRIES = 5
"""Maximum number of the oldest pending entries that are read."""

CRD_MISSING = (
    f"the cluster does not serve {names.API_VERSION} {names.KIND}; install the operator and its CRD: {INSTALL_COMMAND}"
)
SECRETS_UNREADABLE = "you are not allowed to get the Secrets that the StreamConsumer references"

Item = TypeVar("Item")
Result = TypeVar("Result")

Manifest = dict[str, Any]


@asynccontextmanager
async def kube_client(context: str | None) -> AsyncIterator[KubeClient]:
    """Connect to the API server of a context in the kubeconfig.

    Raises BackendUnavailable if the API server does not answer or rejects a request.
    """
    try:
        async with connect(context) as api:
            yield KubeClient(api)
    except ApiError as error:
        remedy = "; run `kubectl auth whoami` to check your login" if error.status == HTTPStatus.UNAUTHORIZED else ""
        raise BackendUnavailable(
            f"the Kubernetes API rejects the request: {api_error_message(error)}{remedy}"
        ) from None
    except (ClientError, OSError, ApiThrottled) as error:
        raise BackendUnavailable(f"the Kubernetes API does not answer: {' '.join(str(error).split())}") from None


def namespace_of(options: Mapping[str, Any]) -> str | None:
    """Return the namespace that the options or the context select, or None if the options select all namespaces."""
    if options.get("all_namespaces"):
        return None
    return options["namespace"] or default_namespace(options["context"])


async def list_consumers(client: KubeClient, namespace: str | None, name: str | None) -> list[Manifest]:
    """List the StreamConsumers, or get only the StreamConsumer `name`.

    Raises InvalidSettings if the StreamConsumer does not exist, or if a name is given without a namespace.
    """
    if name is None:
        try:
            return [each async for each in client.list(names.API_VERSION, names.KIND, namespace)]
        except NotFound:
            raise InvalidSettings(CRD_MISSING) from None
    if namespace is None:
        raise InvalidSettings("NAME cannot be combined with --all-namespaces; remove NAME or --all-namespaces")
    if (manifest := await client.get(names.API_VERSION, names.KIND, namespace, name)) is None:
        raise await consumer_not_found(client, namespace, name)
    return [manifest]


async def consumer_not_found(client: KubeClient, namespace: str, name: str) -> InvalidSettings:
    """Return the error that the StreamConsumer, or the CRD, does not exist."""
    if not await client.serves_consumers():
        return InvalidSettings(CRD_MISSING)
    return InvalidSettings(
        f"{names.KIND} {namespace}/{name}: not found; `kubectl get stc -A` lists all StreamConsumers"
    )


async def collect_facts(client: KubeClient, manifest: Manifest) -> Facts:
    """Return the facts about one StreamConsumer: the status, the pods, and the state in Redis."""
    facts = from_manifests(manifest, await list_pods(client, manifest))
    return facts.model_copy(update={"redis": await _redis_view(client, manifest, facts)})


async def map_concurrently(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], limit: int = MAX_CONCURRENT
) -> list[Result]:
    """Call the function with each item, with up to `limit` calls at the same time. Returns the results in order.

    The calls are concurrent, so that a slow Redis server delays the results of other StreamConsumers only a little."""
    semaphore = asyncio.Semaphore(limit)

    async def call(item: Item) -> Result:
        async with semaphore:
            return await function(item)

    return await asyncio.gather(*map(call, items))


async def collect_facts_of_one(client: KubeClient, manifest: Manifest) -> Facts:
    """Return the facts about one of several StreamConsumers.

    An error affects only this StreamConsumer. After an error, the facts contain only the name of the StreamConsumer,
    and the error as the problem.
    """
    try:
        return await collect_facts(client, manifest)
    except Exception as error:  # noqa: BLE001 - an unreadable StreamConsumer must not hide other StreamConsumers
        metadata, problem = manifest["metadata"], " ".join(api_error_message(error).split())
        return Facts(
            namespace=metadata["namespace"],
            name=metadata["name"],
            stream="",
            consumer_group="",
            generation=0,
            suspended=False,
            redis=RedisView(source="unknown", problem=problem),
        )


async def list_pods(client: KubeClient, manifest: Manifest) -> list[Manifest]:
    """Return the pods of a StreamConsumer."""
    metadata = manifest["metadata"]
    selector = label_selector({names.LABEL_CONSUMER: metadata["name"]})
    return [each async for each in client.list("v1", "Pod", metadata["namespace"], selector)]


async def list_events(client: KubeClient, namespace: str, object_names: set[str]) -> list[Manifest]:
    """Return the Events of the named objects, oldest first."""
    events = client.list("events.k8s.io/v1", "Event", namespace)
    matching = [event async for event in events if event.get("regarding", {}).get("name") in object_names]
    return sorted(matching, key=lambda event: str(event.get("eventTime") or event["metadata"].get("creationTimestamp")))


async def _redis_view(client: KubeClient, manifest: Manifest, facts: Facts) -> RedisView:
    """Return the state in Redis. If Redis cannot be read, return the values in the status and the reason."""
    raw_replies = await query_redis(client, manifest, _status_commands)
    if isinstance(raw_replies, str):
        return facts.redis.model_copy(update={"problem": raw_replies})
    group = GroupRef.from_consumer(StreamConsumer.parse(manifest))
    result = parse_probe(group, raw_replies[:COMMANDS_PER_PROBE])
    pods = {pod.name for pod in facts.pods}
    try:
        consumers, pending = map(_parse_lines, raw_replies[COMMANDS_PER_PROBE:])
        return RedisView(
            source="redis",
            problem="" if result.group_ready.status == "True" else result.group_ready.message,
            stats=_with_known_lag(result, facts),
            consumers=None if consumers is None else [_parse_consumer(line, pods) for line in consumers],
            oldest_pending=None if pending is None else [_parse_pending_entry(line) for line in pending],
        )
    except UnexpectedReply as error:
        return facts.redis.model_copy(update={"problem": str(error)})


def _with_known_lag(result: ProbeResult, facts: Facts) -> Any:
    """Return the stats of the probe. If Redis does not know the lag, use the lag that the operator counted."""
    stats, operator_stats = result.stats, facts.redis.stats
    if stats is None or stats.lag is not None or operator_stats is None:
        return stats
    return stats.model_copy(update={"lag": operator_stats.lag, "lag_known": operator_stats.lag_known})


def _status_commands(group: GroupRef) -> list[Command]:
    return [
        *probe_commands(group),
        ("EVAL", LIST_CONSUMERS, 1, group.stream, group.group, MAX_CONSUMERS),
        ("EVAL", LIST_PENDING, 1, group.stream, group.group, MAX_PENDING_ENTRIES),
    ]


async def resolve_redis_settings(client: KubeClient, consumer: StreamConsumer) -> ResolvedRedis | str:
    """Return the connection settings, or the problem as text."""
    try:
        resolved = await resolve_redis_spec(consumer.spec.redis, consumer.namespace, client)
    except PermissionDenied:
        return SECRETS_UNREADABLE
    except OSError as error:
        return str(error)
    return resolved.redis_reachable.message if isinstance(resolved, ProbeResult) else resolved


async def query_redis(
    client: KubeClient, manifest: Manifest, build_commands: Callable[[GroupRef], list[Command]]
) -> list[Any] | str:
    """Execute the Redis commands that `build_commands` returns for the group.

    Returns the replies, or the problem as text if Redis cannot be read.
    """
    try:
        consumer = StreamConsumer.parse(manifest)
    except InvalidResource as error:
        return str(error)
    resolved = await resolve_redis_settings(client, consumer)
    if isinstance(resolved, str):
        return resolved
    redis = None
    try:
        redis = PipelineClient(resolved.credentials, consumer.spec.stream, REDIS_TIMEOUT_SECONDS)
        raw_replies = await redis.execute(build_commands(GroupRef.from_consumer(consumer)))
    except InvalidSettings as error:
        return resolved.redact(str(error))
    finally:
        if redis is not None:
            await redis.close()
    return resolved.redact(raw_replies.message) if isinstance(raw_replies, RedisErrorInfo) else raw_replies


def _parse_lines(reply: Any) -> list[Any] | None:
    """Return the lines of a reply. Returns None if the reply is an error."""
    return None if isinstance(reply, RedisErrorInfo) else replies.array(reply, "EVAL")


def _parse_consumer(line: Any, pods: set[str]) -> ConsumerFacts:
    name, pending, idle = replies.array(line, "XINFO CONSUMERS", 3)
    consumer = replies.text(name, "XINFO CONSUMERS")
    return ConsumerFacts(
        name=consumer,
        pending=replies.count(pending, "XINFO CONSUMERS"),
        idle_seconds=replies.count(idle, "XINFO CONSUMERS") // 1000,
        is_pod=consumer in pods,
    )


def _parse_pending_entry(line: Any) -> PendingEntryFacts:
    message_id, consumer, idle, deliveries = replies.array(line, "XPENDING", 4)
    return PendingEntryFacts(
        message_id=replies.entry_id(message_id, "XPENDING"),
        consumer=replies.text(consumer, "XPENDING"),
        idle_seconds=replies.count(idle, "XPENDING") // 1000,
        deliveries=replies.count(deliveries, "XPENDING"),
    )
