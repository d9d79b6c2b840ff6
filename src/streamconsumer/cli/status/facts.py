"""What is known of one StreamConsumer, and what is wrong with it: the shape of `-o json`. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from streamconsumer.model.crd import INITIAL_STATUS
from streamconsumer.model.fields import Model
from streamconsumer.model.status import Condition, ScalingStatus, Status, StreamStats
from streamconsumer.operator.cache.transform import as_mapping

Manifest = Mapping[str, Any]


class Finding(Model):
    """One thing that is wrong."""

    severity: Literal["error", "warning"]
    """`error`: messages are not handled as they should be. `warning`: somebody should look."""
    object: str
    found: str
    expected: str
    advice: str


class Pod(Model):
    name: str
    phase: str
    ready: bool
    restarts: int
    last_words: str = ""
    """Why its container waits, or ended."""


class ConsumerFacts(Model):
    """A name that the group knows."""

    name: str
    pending: int
    idle_seconds: int
    is_pod: bool


class PendingEntryFacts(Model):
    """One of the oldest pending entries."""

    message_id: str
    consumer: str
    idle_seconds: int
    deliveries: int


class RedisView(Model):
    """What Redis says of the stream."""

    by: Literal["redis", "operator", "nobody"]
    """`redis`: asked just now, from here. `operator`: what it last wrote into the status. `nobody`: not known."""
    problem: str = ""
    """Why Redis was not asked from here."""
    figures: StreamStats | None = None
    consumers: list[ConsumerFacts] | None = None
    oldest: list[PendingEntryFacts] | None = None


class Facts(Model):
    """One StreamConsumer as it stands now."""

    namespace: str
    name: str
    stream: str
    consumer_group: str
    generation: int
    suspended: bool
    status: Status | None = None
    """None: the operator has not said anything yet."""
    pods: list[Pod] = Field([])
    redis: RedisView = RedisView(by="nobody")

    @property
    def conditions(self) -> dict[str, Condition]:
        return {each.type: each for each in self.status.conditions} if self.status else {}

    @property
    def autoscaling(self) -> ScalingStatus | None:
        return self.status.autoscaling if self.status else None


def from_manifests(consumer: Manifest, pods: Sequence[Manifest]) -> Facts:
    """All but what Redis says beyond the status. A resource that is invalid is told of like any other."""
    metadata, spec, status = (
        consumer["metadata"],
        as_mapping(consumer.get("spec")),
        _parse_status(consumer.get("status")),
    )
    figures = status.stream if status else None
    return Facts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        stream=str(spec.get("stream", "")),
        consumer_group=str(spec.get("consumerGroup", "")),
        generation=metadata.get("generation", 0),
        suspended=bool(spec.get("suspend")),
        status=status,
        pods=[_pod_facts(each) for each in pods],
        redis=RedisView(by="operator" if figures else "nobody", figures=figures),
    )


def _parse_status(manifest: Any) -> Status | None:
    """None: no operator has looked at it, or somebody garbled what it said."""
    try:
        said = Status.model_validate(manifest or INITIAL_STATUS)
    except ValidationError:
        return None
    return None if said.observed_generation == INITIAL_STATUS["observedGeneration"] else said


def _pod_facts(manifest: Manifest) -> Pod:
    status = manifest.get("status", {})
    containers = status.get("containerStatuses", [])
    return Pod(
        name=manifest["metadata"]["name"],
        phase="Terminating" if "deletionTimestamp" in manifest["metadata"] else status.get("phase", "Unknown"),
        ready=bool(containers) and all(each.get("ready") for each in containers),
        restarts=sum(each.get("restartCount", 0) for each in containers),
        last_words=next((words for each in containers if (words := _exit_message(each))), ""),
    )


def _exit_message(container: Manifest) -> str:
    waiting = container.get("state", {}).get("waiting") or {}
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    words = ended.get("message") or waiting.get("message") or waiting.get("reason") or ended.get("reason") or ""
    return " ".join(words.split())
