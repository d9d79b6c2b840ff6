"""Models of the state and the problems of a StreamConsumer. The models define the JSON of `status -o json`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from streamconsumer.model.crd import INITIAL_STATUS
from streamconsumer.model.fields import Model
from streamconsumer.model.status import Condition, ScalingStatus, Status, StreamReason, StreamStats
from streamconsumer.operator.cache.transform import as_mapping

Manifest = Mapping[str, Any]


class Finding(Model):
    """A problem and its remedy."""

    severity: Literal["error", "warning"]
    """`error` if messages are not processed as specified, `warning` if you should check the state."""
    object: str
    found: str
    expected: str
    advice: str
    command: str = ""
    """Command that solves the problem, or an empty string if no command solves the problem."""


class Pod(Model):
    """A pod of the StreamConsumer."""

    name: str
    phase: str
    ready: bool
    restarts: int
    exit_message: str = ""
    """Reason why the container is waiting or has terminated, or an empty string if the reason is unknown."""


class ConsumerFacts(Model):
    """A consumer of the group."""

    name: str
    pending: int
    idle_seconds: int
    is_pod: bool


class PendingEntryFacts(Model):
    """An entry among the oldest pending entries."""

    message_id: str
    consumer: str
    idle_seconds: int
    deliveries: int


class RedisView(Model):
    """State of the stream and the group in Redis."""

    source: Literal["redis", "operator", "unknown"]
    """Source of the stats. `redis`: this command read the stats from Redis. `operator`: the stats come from the status
    that the operator wrote. `unknown`: there are no stats."""
    problem: str = ""
    """Reason why this command could not read Redis, or the problem that Redis reported for the group."""
    stats: StreamStats | None = None
    """Numbers of entries, consumers and dead letters, or None if these numbers are unknown."""
    consumers: list[ConsumerFacts] | None = None
    """Consumers of the group, or None if the consumers are unknown."""
    oldest_pending: list[PendingEntryFacts] | None = None
    """The oldest pending entries of the group, or None if these entries are unknown."""


class Facts(Model):
    """Current state of one StreamConsumer."""

    namespace: str
    name: str
    stream: str
    consumer_group: str
    generation: int
    suspended: bool
    status: Status | None = None
    """Status that the operator wrote, or None if the status is missing or invalid."""
    pods: list[Pod] = Field(default=[])
    redis: RedisView = RedisView(source="unknown")

    @property
    def conditions(self) -> dict[str, Condition]:
        """The conditions in the status, by type."""
        return {each.type: each for each in self.status.conditions} if self.status else {}

    @property
    def is_missing_secrets(self) -> bool:
        """True if a condition reports that the operator is not allowed to read Secrets."""
        return any(each.reason == StreamReason.SECRETS_NOT_READABLE for each in self.conditions.values())

    @property
    def autoscaling(self) -> ScalingStatus | None:
        """The last scaling decision, or None if the status contains no scaling decision."""
        return self.status.autoscaling if self.status else None


def from_manifests(consumer: Manifest, pods: Sequence[Manifest]) -> Facts:
    """Return the facts that need no connection to Redis.

    An invalid StreamConsumer raises no error, because commands also show invalid StreamConsumers.
    """
    metadata, spec = consumer["metadata"], as_mapping(consumer.get("spec"))
    status = _parse_status(consumer.get("status"))
    stats = status.stream if status else None
    return Facts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        stream=str(spec.get("stream", "")),
        consumer_group=str(spec.get("consumerGroup", "")),
        generation=metadata.get("generation", 0),
        suspended=bool(spec.get("suspend")),
        status=status,
        pods=[_pod_facts(each) for each in pods],
        redis=RedisView(source="operator" if stats else "unknown", stats=stats),
    )


def _parse_status(manifest: Any) -> Status | None:
    """Return the parsed status, or None if no operator has written a status yet or the status is invalid."""
    try:
        status = Status.model_validate(manifest or INITIAL_STATUS)
    except ValidationError:
        return None
    return None if status.observed_generation == INITIAL_STATUS["observedGeneration"] else status


def _pod_facts(manifest: Manifest) -> Pod:
    status = manifest.get("status", {})
    containers = status.get("containerStatuses", [])
    return Pod(
        name=manifest["metadata"]["name"],
        phase="Terminating" if "deletionTimestamp" in manifest["metadata"] else status.get("phase", "Unknown"),
        ready=bool(containers) and all(each.get("ready") for each in containers),
        restarts=sum(each.get("restartCount", 0) for each in containers),
        exit_message=next((message for each in containers if (message := _exit_message(each))), ""),
    )


def _exit_message(container: Manifest) -> str:
    waiting = container.get("state", {}).get("waiting") or {}
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    message = ended.get("message") or waiting.get("message") or waiting.get("reason") or ended.get("reason") or ""
    return " ".join(message.split())
