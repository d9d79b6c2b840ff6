"""To the API server that kubectl would speak to, and from there to Redis, with the rights of whoever asks."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamconsumer.cli.status.facts import ConsumerFacts, Facts, PendingEntryFacts, RedisView, from_manifests
from streamconsumer.errors import ApiThrottled, BackendUnavailable, InvalidResource, InvalidSettings, PermissionDenied
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import StreamReason

try:
    from aiohttp import ClientError

    from streamconsumer.operator.kube.api import ApiError, api_error_message, connect, default_namespace
    from streamconsumer.operator.kube.client import KubeClient
    from streamconsumer.operator.redis_monitor.probe import (
        COMMANDS_PER_PROBE,
        GroupRef,
        ProbeResult,
        parse_probe,
        probe_commands,
    )
    from streamconsumer.operator.redis_monitor.secret_resolver import ResolvedRedis, resolve_redis_spec
    from streamconsumer.redis_client.credentials import no_host_lookup
    from streamconsumer.redis_client.errors_table import RedisErrorInfo
    from streamconsumer.redis_client.pipeline_client import Command, PipelineClient
    from streamconsumer.redis_client.replies import to_dict
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[operator]") from None

REDIS_TIMEOUT_SECONDS = 2.0
"""For Redis, which from outside a cluster is often not to be reached at all."""

MAX_PENDING_ENTRIES = 5
"""So many of the oldest pending entries are looked at."""

SECRETS_UNREADABLE = "you may not get the Secrets that it names"

Manifest = dict[str, Any]


@asynccontextmanager
async def kube_client(context: str | None) -> AsyncIterator[KubeClient]:
    """Raises BackendUnavailable, in a sentence, for whatever the API server does not do."""
    try:
        async with connect(context) as found:
            yield KubeClient(found)
    except ApiError as error:
        raise BackendUnavailable(f"the Kubernetes API refuses: {api_error_message(error)}") from None
    except (ClientError, OSError, ApiThrottled) as error:
        raise BackendUnavailable(f"the Kubernetes API does not answer: {' '.join(str(error).split())}") from None


def namespace_of(options: Mapping[str, Any]) -> str | None:
    """None: all of them."""
    if options.get("all_namespaces"):
        return None
    return options["namespace"] or default_namespace(options["context"])


async def list_consumers(client: KubeClient, namespace: str | None, name: str | None) -> list[Manifest]:
    """The StreamConsumers meant. Raises InvalidSettings where the one that is named is not there."""
    if name is None:
        return [each async for each in client.list(names.API_VERSION, names.KIND, namespace)]
    if namespace is None:
        raise InvalidSettings("a NAME is of one namespace; leave --all-namespaces out, or the NAME")
    if (one := await client.get(names.API_VERSION, names.KIND, namespace, name)) is None:
        raise InvalidSettings(
            f"there is no {names.KIND} {name} in namespace {namespace}; `kubectl get stc -A` lists all"
        )
    return [one]


async def collect_facts(client: KubeClient, manifest: Manifest) -> Facts:
    """Everything there is to know of one StreamConsumer."""
    known = from_manifests(manifest, await list_pods(client, manifest))
    return known.model_copy(update={"redis": await _redis_view(client, manifest, known)})


async def list_pods(client: KubeClient, manifest: Manifest) -> list[Manifest]:
    metadata = manifest["metadata"]
    selector = f"{names.LABEL_CONSUMER}={metadata['name']}"
    return [each async for each in client.list("v1", "Pod", metadata["namespace"], selector)]


async def list_events(client: KubeClient, namespace: str, object_names: set[str]) -> list[Manifest]:
    """Oldest first."""
    events = client.list("events.k8s.io/v1", "Event", namespace)
    mine = [each async for each in events if each.get("regarding", {}).get("name") in object_names]
    return sorted(mine, key=lambda each: str(each.get("eventTime") or each["metadata"].get("creationTimestamp")))


async def _redis_view(client: KubeClient, manifest: Manifest, facts: Facts) -> RedisView:
    """Redis asked from here, or why not, beside what the status says."""
    answers = await query_redis(client, manifest, _status_commands)
    if isinstance(answers, str):
        return facts.redis.model_copy(update={"problem": answers})
    place = GroupRef.from_consumer(StreamConsumer.parse(manifest))
    seen = parse_probe(place, answers[:COMMANDS_PER_PROBE])
    consumers, oldest = answers[COMMANDS_PER_PROBE:]
    pods = {pod.name for pod in facts.pods}
    return RedisView(
        by="redis",
        problem="" if seen.group_ready.status == "True" else seen.group_ready.message,
        figures=_with_known_lag(seen, facts),
        consumers=None
        if isinstance(consumers, RedisErrorInfo)
        else [_parse_consumer(to_dict(each), pods) for each in consumers],
        oldest=None if isinstance(oldest, RedisErrorInfo) else [_parse_pending_entry(each) for each in oldest],
    )


def _with_known_lag(result: ProbeResult, facts: Facts) -> Any:
    """Where Redis does not know it, what the operator counted."""
    figures, counted = result.stats, facts.redis.figures
    if figures is None or figures.lag is not None or counted is None:
        return figures
    return figures.model_copy(update={"lag": counted.lag, "lag_known": counted.lag_known})


def _status_commands(group: GroupRef) -> list[Command]:
    return [
        *probe_commands(group),
        ("XINFO", "CONSUMERS", group.stream, group.group),
        ("XPENDING", group.stream, group.group, "-", "+", MAX_PENDING_ENTRIES),
    ]


async def resolve_redis_settings(client: KubeClient, consumer: StreamConsumer) -> ResolvedRedis | str:
    """What a Line is made of, to be closed; or one sentence for why there is no way."""
    try:
        way = await resolve_redis_spec(consumer.spec.redis, consumer.namespace, client)
    except PermissionDenied as error:
        return str(error)
    if isinstance(way, ProbeResult):
        return (
            SECRETS_UNREADABLE
            if way.redis_reachable.reason is StreamReason.SECRETS_NOT_READABLE
            else way.redis_reachable.message
        )
    return way


async def query_redis(
    client: KubeClient, manifest: Manifest, build_commands: Callable[[GroupRef], list[Command]]
) -> list[Any] | str:
    """The answers to `asked(place)`, or one sentence for why there are none."""
    try:
        consumer = StreamConsumer.parse(manifest)
    except InvalidResource as error:
        return str(error)
    way = await resolve_redis_settings(client, consumer)
    if isinstance(way, str):
        return way
    line = None
    try:
        line = PipelineClient(way.settings, consumer.spec.stream, no_host_lookup, REDIS_TIMEOUT_SECONDS)
        answers = await line.execute(build_commands(GroupRef.from_consumer(consumer)))
    except InvalidSettings as error:
        return way.redact(str(error))
    finally:
        if line is not None:
            await line.close()
        way.close()
    return way.redact(answers.message) if isinstance(answers, RedisErrorInfo) else answers


def _parse_consumer(reply: dict[bytes, Any], pods: set[str]) -> ConsumerFacts:
    name = reply[b"name"].decode(errors="replace")
    return ConsumerFacts(name=name, pending=reply[b"pending"], idle_seconds=reply[b"idle"] // 1000, is_pod=name in pods)


def _parse_pending_entry(reply: Sequence[Any]) -> PendingEntryFacts:
    message_id, consumer, idle, deliveries = reply
    return PendingEntryFacts(
        message_id=message_id.decode(),
        consumer=consumer.decode(errors="replace"),
        idle_seconds=idle // 1000,
        deliveries=deliveries,
    )
