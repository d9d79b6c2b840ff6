"""To the API server that kubectl would speak to, and from there to Redis, with the rights of whoever asks."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamconsumer.cli.status.facts import Consumer, Entry, Facts, Seen, of_manifests
from streamconsumer.errors import InvalidResource, InvalidSettings, NotAllowed, ServerBusy, ServerUnavailable
from streamconsumer.model import names
from streamconsumer.model.spec import StreamConsumer
from streamconsumer.model.status import StreamReason

try:
    from aiohttp import ClientError

    from streamconsumer.operator.kube.api import Refused, connected, default_namespace, what_was_said
    from streamconsumer.operator.kube.client import Cluster
    from streamconsumer.operator.redis_monitor.probe import QUESTIONS, Place, Sight, questions, sight
    from streamconsumer.operator.redis_monitor.secret_resolver import Resolved, resolve
    from streamconsumer.redis_client.credentials import as_written
    from streamconsumer.redis_client.errors_table import Fault
    from streamconsumer.redis_client.pipeline_client import Line, Question
    from streamconsumer.redis_client.replies import pairs
except ImportError as error:
    raise InvalidSettings(f"{error}; install streamconsumer[operator]") from None

PATIENCE_SECONDS = 2.0
"""For Redis, which from outside a cluster is often not to be reached at all."""

MOST_ENTRIES = 5
"""So many of the oldest pending entries are looked at."""

NOT_READABLE = "you may not get the Secrets that it names"

Manifest = dict[str, Any]


@asynccontextmanager
async def cluster(context: str | None) -> AsyncIterator[Cluster]:
    """Raises ServerUnavailable, in a sentence, for whatever the API server does not do."""
    try:
        async with connected(context) as found:
            yield Cluster(found)
    except Refused as error:
        raise ServerUnavailable(f"the Kubernetes API refuses: {what_was_said(error)}") from None
    except (ClientError, OSError, ServerBusy) as error:
        raise ServerUnavailable(f"the Kubernetes API does not answer: {' '.join(str(error).split())}") from None


def namespace_of(options: Mapping[str, Any]) -> str | None:
    """None: all of them."""
    if options.get("all_namespaces"):
        return None
    return options["namespace"] or default_namespace(options["context"])


async def resources(found: Cluster, namespace: str | None, name: str | None) -> list[Manifest]:
    """The StreamConsumers meant. Raises InvalidSettings where the one that is named is not there."""
    if name is None:
        return [each async for each in found.list(names.API_VERSION, names.KIND, namespace)]
    if namespace is None:
        raise InvalidSettings("a NAME is of one namespace; leave --all-namespaces out, or the NAME")
    if (one := await found.get(names.API_VERSION, names.KIND, namespace, name)) is None:
        raise InvalidSettings(
            f"there is no {names.KIND} {name} in namespace {namespace}; `kubectl get stc -A` lists all"
        )
    return [one]


async def facts(found: Cluster, manifest: Manifest) -> Facts:
    """Everything there is to know of one StreamConsumer."""
    known = of_manifests(manifest, await pods_of(found, manifest))
    return known.model_copy(update={"redis": await _seen(found, manifest, known)})


async def pods_of(found: Cluster, manifest: Manifest) -> list[Manifest]:
    metadata = manifest["metadata"]
    selector = f"{names.LABEL_CONSUMER}={metadata['name']}"
    return [each async for each in found.list("v1", "Pod", metadata["namespace"], selector)]


async def events_of(found: Cluster, namespace: str, about: set[str]) -> list[Manifest]:
    """Oldest first."""
    events = found.list("events.k8s.io/v1", "Event", namespace)
    mine = [each async for each in events if each.get("regarding", {}).get("name") in about]
    return sorted(mine, key=lambda each: str(each.get("eventTime") or each["metadata"].get("creationTimestamp")))


async def _seen(found: Cluster, manifest: Manifest, known: Facts) -> Seen:
    """Redis asked from here, or why not, beside what the status says."""
    answers = await ask_redis(found, manifest, _questions)
    if isinstance(answers, str):
        return known.redis.model_copy(update={"problem": answers})
    place = Place.of(StreamConsumer.parse(manifest))
    seen = sight(place, answers[:QUESTIONS])
    consumers, oldest = answers[QUESTIONS:]
    pods = {pod.name for pod in known.pods}
    return Seen(
        by="redis",
        problem="" if seen.group.status == "True" else seen.group.message,
        figures=_with_lag(seen, known),
        consumers=None if isinstance(consumers, Fault) else [_consumer(pairs(each), pods) for each in consumers],
        oldest=None if isinstance(oldest, Fault) else [_entry(each) for each in oldest],
    )


def _with_lag(seen: Sight, known: Facts) -> Any:
    """Where Redis does not know it, what the operator counted."""
    figures, counted = seen.figures, known.redis.figures
    if figures is None or figures.lag is not None or counted is None:
        return figures
    return figures.model_copy(update={"lag": counted.lag, "lag_known": counted.lag_known})


def _questions(place: Place) -> list[Question]:
    return [
        *questions(place),
        ("XINFO", "CONSUMERS", place.stream, place.group),
        ("XPENDING", place.stream, place.group, "-", "+", MOST_ENTRIES),
    ]


async def way_to_redis(found: Cluster, consumer: StreamConsumer) -> Resolved | str:
    """What a Line is made of, to be closed; or one sentence for why there is no way."""
    try:
        way = await resolve(consumer.spec.redis, consumer.namespace, found)
    except NotAllowed as error:
        return str(error)
    if isinstance(way, Sight):
        return NOT_READABLE if way.reachable.reason is StreamReason.SECRETS_NOT_READABLE else way.reachable.message
    return way


async def ask_redis(found: Cluster, manifest: Manifest, asked: Callable[[Place], list[Question]]) -> list[Any] | str:
    """The answers to `asked(place)`, or one sentence for why there are none."""
    try:
        consumer = StreamConsumer.parse(manifest)
    except InvalidResource as error:
        return str(error)
    way = await way_to_redis(found, consumer)
    if isinstance(way, str):
        return way
    line = None
    try:
        line = Line(way.settings, consumer.spec.stream, as_written, PATIENCE_SECONDS)
        answers = await line.ask(asked(Place.of(consumer)))
    except InvalidSettings as error:
        return way.without_secrets(str(error))
    finally:
        if line is not None:
            await line.hang_up()
        way.close()
    return way.without_secrets(answers.sentence) if isinstance(answers, Fault) else answers


def _consumer(told: dict[bytes, Any], pods: set[str]) -> Consumer:
    name = told[b"name"].decode(errors="replace")
    return Consumer(name=name, pending=told[b"pending"], idle_seconds=told[b"idle"] // 1000, is_pod=name in pods)


def _entry(told: Sequence[Any]) -> Entry:
    message_id, consumer, idle, deliveries = told
    return Entry(
        message_id=message_id.decode(),
        consumer=consumer.decode(errors="replace"),
        idle_seconds=idle // 1000,
        deliveries=deliveries,
    )
