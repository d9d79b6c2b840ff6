"""Status of a StreamConsumer: conditions and reasons in the form that kubectl wait, kstatus, Flux and Argo CD expect.

The functions in this module have no side effects: the caller passes the current time. The conditions follow kstatus.
Users wait for Ready. The conditions Reconciling and Stalled show whether a problem may disappear while the user waits.
`reasons.py` describes each reason.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from streamconsumer.model.fields import Model
from streamconsumer.text import printable

STREAM_CONDITIONS = ("RedisReachable", "GroupReady", "Degraded", "ScalingActive", "ScalingLimited")
"""Types of the conditions about Redis and about autoscaling, which depends on Redis. Ready does not depend on these
conditions, because pods can work even if the operator has no access to Redis."""

CONDITIONS = ("Ready", "Reconciling", "Stalled", "Suspended", *STREAM_CONDITIONS)


MAX_MESSAGE_LENGTH = 32_768
"""Maximum number of characters in a condition's message, as in metav1.Condition."""


class Reason(StrEnum):
    """Reasons of the conditions Ready, Reconciling, Stalled and Suspended. Reasons are never renamed, because users'
    alerts contain their names."""

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
    RECONCILE_FAILED = "ReconcileFailed"


class StreamReason(StrEnum):
    """Reasons of the conditions about Redis: RedisReachable, GroupReady and Degraded."""

    CONNECTED = "Connected"
    UNREACHABLE = "Unreachable"
    DESTINATION_NOT_ALLOWED = "DestinationNotAllowed"
    CREDENTIALS_REFUSED = "CredentialsRefused"
    TLS_FAILED = "TlsFailed"
    SERVER_NOT_READY = "ServerNotReady"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason
    SECRETS_NOT_READABLE = "SecretsNotReadable"
    GROUP_EXISTS = "GroupExists"
    GROUP_MISSING = "GroupMissing"
    NOT_A_STREAM = "NotAStream"
    NO_PERMISSION = "NoPermission"
    UNEXPECTED_REPLY = "UnexpectedReply"
    HEALTHY = "Healthy"
    DEAD_LETTERS_GROWING = "DeadLettersGrowing"
    PENDING_STUCK = "PendingStuck"
    INVALID_SETTINGS = "InvalidSettings"


class ScalingReason(StrEnum):
    """Reasons of a scaling decision, and of the conditions ScalingActive and ScalingLimited."""

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
    SECRETS_NOT_READABLE = "SecretsNotReadable"
    FALLBACK = "Fallback"
    NOT_LIMITED = "NotLimited"


class StatusModel(Model):
    """Base of the status models. Unknown fields are ignored, because a newer operator may have written the
    status."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """Condition in the format of metav1.Condition."""

    type: str = Field(max_length=316)
    """Type of the condition: Ready, Reconciling, Stalled, Suspended, RedisReachable, GroupReady, Degraded,
    ScalingActive or ScalingLimited."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition: True, False or Unknown."""
    reason: str = Field(max_length=1024)
    """Reason of the status, as one CamelCase word from a fixed list."""
    message: str = Field(default="", max_length=MAX_MESSAGE_LENGTH)
    """Explanation of the status."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """Time of the last change of `status`."""
    observed_generation: int = 0
    """Generation of the spec that the condition describes."""


class StreamStats(StatusModel):
    """Last values read from Redis for the stream and the group. If a field is absent, its value is unknown."""

    length: int | None = None
    """Number of entries in the stream."""
    lag: int | None = None
    """Number of entries that have not been delivered to the group yet."""
    lag_known: bool = False
    """True if `lag` is exact. If false, `lag` is a lower bound, because Redis does not know the number and the operator
    counts entries only up to a limit."""
    pending: int | None = None
    """Number of entries that are delivered but not yet acknowledged. Includes entries that wait for a retry."""
    oldest_pending_time: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """Time when the oldest pending entry was added to the stream, taken from the ID of the entry."""
    consumers: int | None = None
    """Number of consumers in the group."""
    dead_letters: int | None = None
    """Number of dead letters."""
    last_delivered_id: str | None = None
    """ID of the last entry that was delivered to the group."""


class ScalingStatus(StatusModel):
    """Last decision of the autoscaling."""

    desired_replicas: int
    """Number of pods that the operator chose in this decision."""
    reason: str
    """Reason for the chosen number of pods, as one word from a fixed list."""
    message: str
    """Explanation of the decision: the backlog, the target and the limit that applied. The explanation is updated when
    the number of pods or the reason changes."""
    decision_time: str = Field(json_schema_extra={"format": "date-time"})
    """Time of the decision."""


class Effective(StatusModel):
    """Effective values of settings whose default depends on the installation. All other defaults are visible in
    the spec or in `kubectl explain`."""

    image: str
    """Image of the pods."""
    image_pull_policy: str | None = None
    """Pull policy of the image."""
    telemetry_endpoint: str | None = None
    """OTLP endpoint for traces. If unset, pods send no traces."""


class Status(StatusModel):
    """Observed state, as of the last reconcile."""

    observed_generation: int = 0
    """Generation of the spec that the operator last acted on."""
    conditions: list[Condition] = Field(
        default=[],
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Conditions of the StreamConsumer. Ready, Reconciling, Stalled and Suspended always exist. RedisReachable,
    GroupReady and Degraded exist after the operator has polled Redis. ScalingActive and ScalingLimited exist if
    `spec.autoscaling` is set."""
    desired_replicas: int = 0
    """Desired number of pods, as determined by `replicas`, autoscaling or `suspend`."""
    replicas: int = 0
    """Number of existing pods."""
    ready_replicas: int = 0
    """Number of pods that read the stream."""
    selector: str = ""
    """Label selector of the pods, for the scale subresource."""
    effective: Effective | None = None
    """Effective values of settings whose default depends on the installation."""
    stream: StreamStats | None = None
    """Last values that the operator read from Redis. Changed values are written at most once per 30 s."""
    autoscaling: ScalingStatus | None = None
    """Last decision of the autoscaling, if `spec.autoscaling` is set."""


class Readiness(Model):
    """Result of a reconcile, from which the conditions Ready, Reconciling, Stalled and Suspended are derived."""

    ready: bool
    reason: Reason
    message: str
    reconciling: bool = False
    stalled: bool = False


class ConditionState(Model):
    """Condition without timestamp and generation."""

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
    """Return all conditions. `readiness` determines Ready, Reconciling, Stalled and Suspended; `stream_states`
    determines the conditions about Redis and autoscaling.

    If `stream_states` is empty because the operator has not polled Redis yet, the previous conditions about Redis and
    autoscaling are kept unchanged. A condition whose status is unchanged keeps its lastTransitionTime. Messages become
    printable text of limited length, because they contain errors of servers and exceptions of handlers.
    """
    transition_times = {(condition.type, condition.status): condition.last_transition_time for condition in previous}
    timestamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def to_condition(state: ConditionState) -> Condition:
        changed = transition_times.get((state.type, state.status), timestamp)
        fields = state.model_dump() | {"message": printable(state.message, MAX_MESSAGE_LENGTH)}
        return Condition(**fields, last_transition_time=changed, observed_generation=generation)

    def readiness_condition(name: str, *, is_true: bool, reason: Reason, message: str) -> Condition:
        status: Literal["True", "False"] = "True" if is_true else "False"
        return to_condition(ConditionState(type=name, status=status, reason=reason, message=message))

    def settled_unless(name: str, *, is_true: bool) -> Condition:
        reason, message = (readiness.reason, readiness.message) if is_true else (Reason.SETTLED, "")
        return readiness_condition(name, is_true=is_true, reason=reason, message=message)

    return [
        readiness_condition("Ready", is_true=readiness.ready, reason=readiness.reason, message=readiness.message),
        settled_unless("Reconciling", is_true=readiness.reconciling),
        settled_unless("Stalled", is_true=readiness.stalled),
        settled_unless("Suspended", is_true=readiness.reason is Reason.SUSPENDED),
        *(
            map(to_condition, stream_states)
            if stream_states
            else (condition for condition in previous if condition.type in STREAM_CONDITIONS)
        ),
    ]
