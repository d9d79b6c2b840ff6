"""What the operator says of a StreamConsumer, in words that kubectl wait, kstatus, Flux and Argo CD understand.

Pure: the clock is an argument. Conditions follow kstatus: Ready is what people wait for, Reconciling and Stalled
say whether waiting will help.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from streamconsumer.model.fields import Model

STREAM_CONDITIONS = ("RedisReachable", "GroupReady", "Degraded", "ScalingActive", "ScalingLimited")
"""What the operator sees in Redis, and the scaling that rests on it. No part of Ready: pods that read well need no
operator that can look."""

CONDITIONS = ("Ready", "Reconciling", "Stalled", "Suspended", *STREAM_CONDITIONS)


MAX_MESSAGE_LENGTH = 32_768
"""Characters of a condition's sentence, as metav1.Condition has it."""


class Reason(StrEnum):
    """Why a condition is as it is. Fixed: people write alerts on these."""

    ALL_PODS_READY = "AllPodsReady"
    SCALED_TO_ZERO = "ScaledToZero"
    SUSPENDED = "Suspended"
    PODS_STARTING = "PodsStarting"
    ROLLING_OUT = "RollingOut"
    SETTLED = "Settled"
    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"
    CHILD_REJECTED = "ChildRejected"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    UNSCHEDULABLE = "Unschedulable"
    POD_CREATION_FAILED = "PodCreationFailed"
    HANDLER_UNUSABLE = "HandlerUnusable"
    INVALID_SETTINGS = "InvalidSettings"
    POD_INVALID = "PodInvalid"
    POD_CRASHING = "PodCrashing"
    REDIS_UNUSABLE = "RedisUnusable"
    ROLLOUT_TIMED_OUT = "RolloutTimedOut"


class StreamReason(StrEnum):
    """The same for what is seen in Redis: RedisReachable, GroupReady and Degraded."""

    CONNECTED = "Connected"
    UNREACHABLE = "Unreachable"
    CREDENTIALS_REFUSED = "CredentialsRefused"
    TLS_FAILED = "TlsFailed"
    SERVER_NOT_READY = "ServerNotReady"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason
    SECRETS_NOT_READABLE = "SecretsNotReadable"
    GROUP_EXISTS = "GroupExists"
    GROUP_MISSING = "GroupMissing"
    NOT_A_STREAM = "NotAStream"
    NO_PERMISSION = "NoPermission"
    HEALTHY = "Healthy"
    DEAD_LETTERS_GROWING = "DeadLettersGrowing"
    PENDING_STUCK = "PendingStuck"
    INVALID_SETTINGS = "InvalidSettings"


class ScalingReason(StrEnum):
    """Why there are as many pods as there are: ScalingActive and ScalingLimited."""

    BACKLOG = "Backlog"
    ARRIVALS = "Arrivals"
    NOTHING_TO_DO = "NothingToDo"
    BELOW_ACTIVATION = "BelowActivation"
    COOLING_DOWN = "CoolingDown"
    STABILIZING = "Stabilizing"
    LIMITED_BY_POLICY = "LimitedByPolicy"
    LIMITED_BY_MAX = "LimitedByMax"
    LIMITED_BY_MIN = "LimitedByMin"
    BACKLOG_UNKNOWN = "BacklogUnknown"
    FALLBACK = "Fallback"
    NOT_LIMITED = "NotLimited"


class StatusModel(Model):
    """What stands in a status. A newer operator may have said more: that is no reason to forget the rest."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """One fact with its reason, as metav1.Condition."""

    type: str = Field(max_length=316)
    """Ready, Reconciling, Stalled, Suspended, RedisReachable, GroupReady, Degraded, ScalingActive or ScalingLimited."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: str = Field(max_length=1024)
    """Why, in one CamelCase word of a fixed list."""
    message: str = Field("", max_length=MAX_MESSAGE_LENGTH)
    """Why, in a sentence."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When status changed last."""
    observed_generation: int = 0
    """The generation of the spec that this was said of."""


class StreamStats(StatusModel):
    """What Redis last said of the stream and the group. What is left out is not known."""

    length: int | None = None
    """How many entries the stream holds."""
    lag: int | None = None
    """How many entries the group has not been given yet."""
    lag_known: bool = False
    """Whether `lag` is the number. false: at least so many; Redis does not know it, and the operator counts only so
    far."""
    pending: int | None = None
    """How many entries were given to a consumer and not acknowledged yet; those that wait for another try included."""
    oldest_pending_time: str | None = Field(None, json_schema_extra={"format": "date-time"})
    """When the oldest pending entry was added, by its id."""
    consumers: int | None = None
    """How many names of consumers the group knows."""
    dead_letters: int | None = None
    """How many dead letters there are."""
    last_delivered_id: str | None = None
    """The id of the last entry that the group was given."""


class ScalingStatus(StatusModel):
    """The last decision of the autoscaling."""

    desired_replicas: int
    """How many pods it wants."""
    reason: str
    """What made the number what it is, in one word of a fixed list."""
    message: str
    """What was seen, what it is measured by, and what held it: written when number or reason change."""
    decision_time: str = Field(json_schema_extra={"format": "date-time"})
    """When that was."""


class Effective(StatusModel):
    """What is in force where the spec may leave it to the installation. Every other setting has its default in the
    spec, or in `kubectl explain`."""

    image: str
    """The image that the pods run."""
    image_pull_policy: str | None = None
    """When the kubelet pulls it."""
    telemetry_endpoint: str | None = None
    """Where the pods send traces. Left out: nowhere."""


class Status(StatusModel):
    """What the operator last saw."""

    observed_generation: int = 0
    """The generation of the spec that the operator acted on last."""
    conditions: list[Condition] = Field(
        [],
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Ready, Reconciling, Stalled and Suspended; RedisReachable, GroupReady and Degraded once the operator has looked;
    ScalingActive and ScalingLimited with `autoscaling`."""
    desired_replicas: int = 0
    """How many pods are wanted, by whoever scales."""
    replicas: int = 0
    """How many pods there are."""
    ready_replicas: int = 0
    """How many pods read the stream."""
    selector: str = ""
    """The label selector of the pods, for the scale subresource."""
    effective: Effective | None = None
    """What is in force where the spec may leave it to the installation."""
    stream: StreamStats | None = None
    """What is known of the stream. Written when it changes, and at most every 30 s."""
    autoscaling: ScalingStatus | None = None
    """The last decision, where `autoscaling` is given."""


class Readiness(Model):
    """What the operator concludes, before it is dated: the conditions follow from these four."""

    ready: bool
    reason: Reason
    message: str
    reconciling: bool = False
    stalled: bool = False


class ConditionState(Model):
    """One condition of those in OF_THE_STREAM, before it is dated."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: Reason | StreamReason | ScalingReason
    message: str = ""


def build_conditions(
    readiness: Readiness,
    generation: int,
    previous: list[Condition],
    now: datetime,
    stream_states: Sequence[ConditionState] = (),
) -> list[Condition]:
    """Ready, Reconciling, Stalled and Suspended, and what was seen in Redis. Where nobody has looked yet, what was seen
    before stays, with its own generation. A condition that keeps its status keeps its lastTransitionTime."""
    since = {(condition.type, condition.status): condition.last_transition_time for condition in previous}
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def dated(fact: ConditionState) -> Condition:
        last = since.get((fact.type, fact.status), moment)
        told = fact.model_dump() | {"message": _truncate(fact.message)}
        return Condition(**told, last_transition_time=last, observed_generation=generation)

    def condition(kind: str, *, holds: bool, reason: Reason, message: str) -> Condition:
        return dated(ConditionState(type=kind, status="True" if holds else "False", reason=reason, message=message))

    def abnormal(kind: str, *, holds: bool) -> Condition:
        reason, message = (readiness.reason, readiness.message) if holds else (Reason.SETTLED, "")
        return condition(kind, holds=holds, reason=reason, message=message)

    return [
        condition("Ready", holds=readiness.ready, reason=readiness.reason, message=readiness.message),
        abnormal("Reconciling", holds=readiness.reconciling),
        abnormal("Stalled", holds=readiness.stalled),
        abnormal("Suspended", holds=readiness.reason is Reason.SUSPENDED),
        *(
            map(dated, stream_states)
            if stream_states
            else (each for each in previous if each.type in STREAM_CONDITIONS)
        ),
    ]


def _truncate(message: str) -> str:
    """What the API server quotes, or an admission policy says, may be longer than a condition."""
    return message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[: MAX_MESSAGE_LENGTH - 1]}…"
