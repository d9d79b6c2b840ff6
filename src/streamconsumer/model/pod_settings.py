"""What a user may say of the pods: a typed list, no pod template.

Who may write a StreamConsumer has pods made by the operator. A free template would give him whatever a pod can have;
these fields give him what he needs, and each can be named in a policy. Not among them: affinity, volumes,
service accounts, security contexts, further containers.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from streamconsumer.model import names
from streamconsumer.model.container_env import EnvFromSource, EnvVar, ObjectName
from streamconsumer.model.fields import DurationRange, Model, cel_rules

RESERVED_LABEL_MESSAGE = (
    "labels of streamconsumer.dev/, app.kubernetes.io/ and kubernetes.io/ are the operator's and the cluster's"
)
RESERVED_ANNOTATION_MESSAGE = (
    "annotations of streamconsumer.dev/, kubernetes.io/ and Kubernetes' security profiles are not the user's to set"
)
EXISTS_TAKES_NO_VALUE = "a toleration with operator Exists takes no value"
KEYLESS_NEEDS_EXISTS = "a toleration without a key tolerates all: write operator Exists"
SECONDS_NEED_NO_EXECUTE = "tolerationSeconds counts for effect NoExecute only"
ROLLOUT_BLOCKED = "rollout.maxUnavailable and rollout.maxSurge must not both be 0: no pod could be replaced"

RESERVED_LABEL_PREFIXES = (f"{names.GROUP}/", "app.kubernetes.io/", "kubernetes.io/")
RESERVED_ANNOTATION_PREFIXES = (
    f"{names.GROUP}/",
    "kubernetes.io/",
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)

_LABEL_VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
_INT_OR_PERCENT_PATTERN = r"^(0|[1-9][0-9]{0,3}|([0-9]|[1-9][0-9]|100)%)$"


Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(max_length=32, pattern=_QUANTITY_PATTERN),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": _QUANTITY_PATTERN, "maxLength": 32, "minimum": 0}),
]
"""`100m`, `0.5`, `256Mi`; a whole number may also be written as a number, as in any manifest: `cpu: 1`."""

IntOrPercent = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(max_length=4, pattern=_INT_OR_PERCENT_PATTERN),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "pattern": _INT_OR_PERCENT_PATTERN,
            "maxLength": 4,
            "minimum": 0,
            "maximum": 9999,
        }
    ),
]
"""So many pods, `1`, or so many of a hundred, `25%`."""

LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=_LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=_LABEL_VALUE_PATTERN)]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=_Named)

LIST_MAP_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


def unique_by_name(items: list[NamedT]) -> list[NamedT]:
    """What `x-kubernetes-list-type: map` asks of the API server."""
    given = [item.name for item in items]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"gives {', '.join(twice)} more than once")
    return items


def _check_reserved(prefixes: Sequence[str], message: str) -> Any:
    """A check of a map's keys. As CEL it may only ask for beginnings: the API server takes a key for as long as a whole
    request, and the cost of a pattern on it for too high."""

    def check(value: dict[str, str]) -> dict[str, str]:
        if any(key.startswith(tuple(prefixes)) for key in value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _reserved_rule(prefixes: Sequence[str], message: str) -> dict[str, Any]:
    return cel_rules((f"self.all(key, {' && '.join(f'!key.startsWith({prefix!r})' for prefix in prefixes)})", message))


class Resources(Model):
    """What one pod asks for and may use, as in any container."""

    requests: dict[str, Quantity] = Field({}, max_length=8)
    """What the scheduler reserves, such as `cpu: 100m`."""

    limits: dict[str, Quantity] = Field({}, max_length=8)
    """What the pod may not exceed, such as `memory: 256Mi`."""


class Toleration(
    Model,
    json_schema_extra=cel_rules(
        ("self.operator != 'Exists' || !has(self.value) || self.value == ''", EXISTS_TAKES_NO_VALUE),
        ("has(self.key) || self.operator == 'Exists'", KEYLESS_NEEDS_EXISTS),
        ("!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')", SECONDS_NEED_NO_EXECUTE),
    ),
):
    """A taint of nodes that keeps these pods away no longer."""

    key: LabelKey | None = None
    """The taint's key. Left out, with operator Exists: any."""

    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the value must be equal, or may be any."""

    value: LabelValue | None = None
    """The taint's value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Left out: any."""

    toleration_seconds: int | None = Field(None, ge=0, le=31_536_000)
    """How long a pod stays that a NoExecute taint would evict. Left out: for ever."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(EXISTS_TAKES_NO_VALUE)
        if self.key is None and self.operator != "Exists":
            raise ValueError(KEYLESS_NEEDS_EXISTS)
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError(SECONDS_NEED_NO_EXECUTE)
        return self


class TopologySpreadConstraint(Model):
    """How evenly the pods of this StreamConsumer, those of one roll-out each, spread over the nodes."""

    topology_key: LabelKey
    """The label of nodes whose values are the places, such as `topology.kubernetes.io/zone`."""

    max_skew: int = Field(1, ge=1, le=1000)
    """How many pods more than any other a place may have."""

    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = "ScheduleAnyway"
    """What becomes of a pod that fits nowhere so: it runs all the same, or it waits."""


class PodDisruptionBudget(Model):
    """What a drain of nodes may take away at a time. There is none for a single pod, which it would only block."""

    max_unavailable: IntOrPercent | None = None
    """So many pods, or so many of a hundred such as `25%`. Left out: 1. With 0, a node
    with such a pod is never drained."""


class Rollout(
    Model,
    json_schema_extra=cel_rules(
        (
            "!has(self.maxUnavailable) || !has(self.maxSurge)"
            + "".join(f" || !(string(self.{bound}) in ['0', '0%'])" for bound in ("maxUnavailable", "maxSurge")),
            ROLLOUT_BLOCKED,
        )
    ),
):
    """How pods are replaced when their configuration changes, as in a Deployment."""

    max_unavailable: IntOrPercent | None = None
    """How many pods may be missing meanwhile: `1`, or `25%`. Left out: 25%, rounded down."""

    max_surge: IntOrPercent | None = None
    """How many pods there may be too many meanwhile. Left out: 25%, rounded up. 0 never runs old and new side by side
    beyond `replicas`."""

    progress_deadline: Annotated[timedelta, DurationRange("10s", "24h")] | None = None
    """How long a roll-out may show no progress before Ready says RolloutTimedOut. Left out: 10 minutes."""

    @model_validator(mode="after")
    def _check_not_blocked(self) -> Self:
        if {self.max_unavailable, self.max_surge} <= {"0", "0%"}:
            raise ValueError(ROLLOUT_BLOCKED)
        return self


class ImagePullSecret(Model):
    """A Secret in the namespace of the StreamConsumer that the kubelet shows to the image's registry."""

    name: ObjectName
    """The Secret's name."""


class PodSettings(Model):
    """What the pods of a StreamConsumer are like. Changing any of it rolls them."""

    env: Annotated[list[EnvVar], AfterValidator(unique_by_name)] = Field(
        [], max_length=256, json_schema_extra=LIST_MAP_BY_NAME
    )
    """Variables for the handler."""

    env_from: list[EnvFromSource] = Field([], max_length=32)
    """Variables for the handler, all keys of a Secret or ConfigMap; of two with the same name the later one wins."""

    resources: Resources = Resources()
    """What one pod asks for and may use."""

    pod_labels: Annotated[dict[str, LabelValue], _check_reserved(RESERVED_LABEL_PREFIXES, RESERVED_LABEL_MESSAGE)] = (
        Field({}, max_length=32, json_schema_extra=_reserved_rule(RESERVED_LABEL_PREFIXES, RESERVED_LABEL_MESSAGE))
    )
    """Further labels of the pods, such as for a NetworkPolicy or a bill."""

    pod_annotations: Annotated[
        dict[str, Annotated[str, Field(max_length=8192)]],
        _check_reserved(RESERVED_ANNOTATION_PREFIXES, RESERVED_ANNOTATION_MESSAGE),
    ] = Field(
        {}, max_length=32, json_schema_extra=_reserved_rule(RESERVED_ANNOTATION_PREFIXES, RESERVED_ANNOTATION_MESSAGE)
    )
    """Annotations of the pods, such as for a service mesh."""

    node_selector: dict[str, LabelValue] = Field({}, max_length=32)
    """Labels that a node must have to get a pod."""

    tolerations: list[Toleration] = Field([], max_length=32)
    """Taints of nodes that keep the pods away no longer."""

    topology_spread_constraints: list[TopologySpreadConstraint] = Field([], max_length=8)
    """How evenly the pods spread over zones, nodes and so on."""

    priority_class_name: ObjectName | None = None
    """The PriorityClass of the pods."""

    runtime_class_name: ObjectName | None = None
    """The RuntimeClass of the pods, such as a sandbox."""

    image_pull_secrets: Annotated[list[ImagePullSecret], AfterValidator(unique_by_name)] = Field(
        [], max_length=16, json_schema_extra=LIST_MAP_BY_NAME
    )
    """Secrets that the kubelet shows to the image's registry."""

    pod_disruption_budget: PodDisruptionBudget = PodDisruptionBudget()
    """What a drain of nodes may take away at a time."""

    rollout: Rollout = Rollout()
    """How pods are replaced when their configuration changes."""
