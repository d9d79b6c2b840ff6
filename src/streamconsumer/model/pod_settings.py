"""Settings of the pods: typed fields instead of a pod template.

The operator creates pods for every user who is allowed to write a StreamConsumer. A complete pod template would grant
these users every privilege that a pod can have. The fields in this module accept only limited values, and an admission
policy can check each field. There are no fields for affinity, volumes, service accounts, security contexts or
additional containers.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from streamconsumer.model import names
from streamconsumer.model.container_env import EnvFromSource, EnvVar
from streamconsumer.model.fields import DurationRange, Model, Pattern, cel_rules
from streamconsumer.model.name_fields import LabelKey, LabelValue, ObjectName

RESERVED_LABEL_MESSAGE = "labels under streamconsumer.dev/, app.kubernetes.io/ and kubernetes.io/ are reserved"
RESERVED_ANNOTATION_MESSAGE = (
    "annotations under streamconsumer.dev/, kubernetes.io/ and the prefixes of security profiles are reserved"
)
CLOUD_IDENTITY_PREFIXES = (
    "eks.amazonaws.com/",
    "iam.gke.io/",
    "azure.workload.identity/",
    "pod-identity.alibabacloud.com/",
)
"""Prefixes of annotations that select a cloud identity. The cloud checks the namespace and the name of the
ServiceAccount before it grants the identity. No annotation with these prefixes grants a permission in Kubernetes."""

SERVICE_ACCOUNT_ANNOTATION_MESSAGE = (
    "serviceAccountAnnotations may contain only annotations for cloud identities, which start with "
    f"{' or '.join(CLOUD_IDENTITY_PREFIXES)}"
)
EXISTS_TAKES_NO_VALUE = "a toleration with operator Exists must not have a value"
KEYLESS_NEEDS_EXISTS = "a toleration without a key must use operator Exists, which matches every taint key"
SECONDS_NEED_NO_EXECUTE = "tolerationSeconds applies only to effect NoExecute"
ROLLOUT_BLOCKED = "rollout.maxUnavailable and rollout.maxSurge must not both be 0, because no pod could be replaced"

RESERVED_LABEL_PREFIXES = (f"{names.GROUP}/", "app.kubernetes.io/", "kubernetes.io/")
RESERVED_ANNOTATION_PREFIXES = (
    f"{names.GROUP}/",
    "kubernetes.io/",
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)

_QUANTITY = Pattern(
    r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?", "must be a quantity", "256Mi"
)
_INT_OR_PERCENT = Pattern(
    "0|[1-9][0-9]{0,3}|([0-9]|[1-9][0-9]|100)%", "must be a number of pods or a percentage of the pods", "25%"
)


def _int_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _int_or_text_schema(pattern: Pattern, max_length: int) -> dict[str, Any]:
    """Return the schema of a field that accepts an integer, or a text that matches the pattern."""
    schema = {"x-kubernetes-int-or-string": True, "pattern": f"^({pattern.pattern})$", "maxLength": max_length}
    return {**schema, "minimum": 0, "examples": [pattern.example]}


Quantity = Annotated[
    str,
    BeforeValidator(_int_as_text),
    Field(max_length=32),
    _QUANTITY,
    WithJsonSchema(_int_or_text_schema(_QUANTITY, 32)),
]
"""Kubernetes quantity such as `100m`, `0.5` or `256Mi`. An integer such as `cpu: 1` is accepted as well."""

IntOrPercent = Annotated[
    str,
    BeforeValidator(_int_as_text),
    Field(max_length=4),
    _INT_OR_PERCENT,
    WithJsonSchema({**_int_or_text_schema(_INT_OR_PERCENT, 4), "maximum": 9999}),
]
"""Number of pods such as `1`, or percentage of pods such as `25%`."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=_Named)

LIST_MAP_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


def unique_by_name(items: list[NamedT]) -> list[NamedT]:
    """Check that no two items have the same name. The API server performs the same check if the
    schema contains `x-kubernetes-list-type: map`."""
    item_names = [item.name for item in items]
    if duplicates := sorted({name for name in item_names if item_names.count(name) > 1}):
        raise ValueError(f"found several items with the name {', '.join(duplicates)}, expected unique names")
    return items


def _check_reserved(prefixes: Sequence[str], message: str) -> Any:
    """Return a validator that rejects keys with reserved prefixes."""

    def check(value: dict[str, str]) -> dict[str, str]:
        if any(key.startswith(tuple(prefixes)) for key in value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _check_service_account_annotations(value: dict[str, str]) -> dict[str, str]:
    if not all(key.startswith(CLOUD_IDENTITY_PREFIXES) for key in value):
        raise ValueError(SERVICE_ACCOUNT_ANNOTATION_MESSAGE)
    return value


def _reserved_rule(prefixes: Sequence[str], message: str) -> dict[str, Any]:
    """Return the CEL rule that rejects keys with reserved prefixes.

    The rule uses `startsWith` because the API server would reject a regular expression as too expensive. When the
    API server estimates the cost, it assumes that a key can have the maximum size of a whole request.
    """
    return cel_rules((f"self.all(key, {' && '.join(f'!key.startsWith({prefix!r})' for prefix in prefixes)})", message))


class Resources(Model):
    """Resources of one pod, as in a container."""

    requests: dict[LabelKey, Quantity] = Field(default={}, max_length=8)
    """Resources that the scheduler reserves for a pod, such as `cpu: 100m`. If empty, the scheduler reserves no
    resources."""

    limits: dict[LabelKey, Quantity] = Field(default={}, max_length=8)
    """Resources that a pod cannot exceed, such as `memory: 256Mi`. If empty, the pods have no resource limits."""


class Toleration(
    Model,
    json_schema_extra=cel_rules(
        ("self.operator != 'Exists' || !has(self.value) || self.value == ''", EXISTS_TAKES_NO_VALUE),
        ("has(self.key) || self.operator == 'Exists'", KEYLESS_NEEDS_EXISTS),
        ("!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')", SECONDS_NEED_NO_EXECUTE),
    ),
):
    """Toleration that allows pods to run on nodes with a matching taint."""

    key: LabelKey | None = None
    """Key of the taint. If unset, the toleration matches all keys, and `operator` must be Exists."""

    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal` matches if the value of the taint equals `value`. `Exists` matches every value."""

    value: LabelValue | None = None
    """Value of the taint, for operator Equal."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. If unset, the toleration matches all effects."""

    toleration_seconds: int | None = Field(default=None, ge=0, le=31_536_000)
    """Seconds that a pod stays on a node with a NoExecute taint before the pod is evicted. If unset, the pod is not
    evicted."""

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
    """Rule for the distribution of the pods over zones, nodes or other groups of nodes. During a rollout, new
    pods are counted separately from old pods."""

    topology_key: LabelKey
    """Name of a node label, such as `topology.kubernetes.io/zone`. Nodes with the same value of this label form one
    group."""

    max_skew: int = Field(default=1, ge=1, le=1000)
    """Maximum difference between the numbers of pods in any two groups of nodes."""

    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = "ScheduleAnyway"
    """Action for a pod that would violate the constraint: ScheduleAnyway starts the pod, DoNotSchedule leaves the
    pod pending."""


class PodDisruptionBudget(Model):
    """Limit for the number of pods that a node drain may evict at the same time."""

    max_unavailable: IntOrPercent | None = None
    """Maximum number of pods that can be unavailable, as a number or as a percentage such as `25%`. If unset, one pod
    can be unavailable. If 0, a node that runs one of these pods cannot be drained."""


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
    """Limits for the replacement of pods after a configuration change, as in a Deployment."""

    max_unavailable: IntOrPercent | None = None
    """Maximum number of pods that can be unavailable during a rollout, as a number or as a percentage such as `25%`. If
    unset, the maximum is 25% of the pods, rounded down."""

    max_surge: IntOrPercent | None = None
    """Maximum number of pods that a rollout creates in addition to the desired number, as a number or as a percentage
    such as `25%`. If unset, the maximum is 25% of the pods, rounded up. If 0, the total number of pods never exceeds
    the desired number."""

    progress_deadline: Annotated[timedelta, DurationRange("10s", "24h")] | None = None
    """Time without progress of a rollout after which the Ready condition has the reason RolloutTimedOut. If unset, the
    time is 10 minutes."""

    @model_validator(mode="after")
    def _check_not_blocked(self) -> Self:
        if {self.max_unavailable, self.max_surge} <= {"0", "0%"}:
            raise ValueError(ROLLOUT_BLOCKED)
        return self


class ImagePullSecret(Model):
    """Secret with registry credentials, in the namespace of the StreamConsumer."""

    name: ObjectName
    """Name of the Secret."""


class PodSettings(Model):
    """Settings of the pods. If a field other than `podDisruptionBudget` or `rollout` changes, a rollout replaces the
    pods."""

    env: Annotated[list[EnvVar], AfterValidator(unique_by_name)] = Field(
        default=[], max_length=256, json_schema_extra=LIST_MAP_BY_NAME, examples=[[{"name": "DEBUG", "value": "1"}]]
    )
    """Environment variables for the handler. If the operator sets a variable with the same name, such as an OTEL_
    variable, the value in `env` takes precedence."""

    env_from: list[EnvFromSource] = Field(default=[], max_length=32)
    """Environment variables for the handler from all keys of Secrets and ConfigMaps. If two sources contain the
    same name, the later source in the list applies. Variables in `env` and variables that the operator sets take
    precedence over variables from `envFrom`."""

    resources: Resources = Resources()
    """Resources of one pod. If unset, pods have no resource requests and no resource limits."""

    pod_labels: Annotated[
        dict[LabelKey, LabelValue], _check_reserved(RESERVED_LABEL_PREFIXES, RESERVED_LABEL_MESSAGE)
    ] = Field(
        default={}, max_length=32, json_schema_extra=_reserved_rule(RESERVED_LABEL_PREFIXES, RESERVED_LABEL_MESSAGE)
    )
    """Additional labels of the pods, for example for a NetworkPolicy or for cost reports."""

    pod_annotations: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=8192)]],
        _check_reserved(RESERVED_ANNOTATION_PREFIXES, RESERVED_ANNOTATION_MESSAGE),
    ] = Field(
        default={},
        max_length=32,
        json_schema_extra=_reserved_rule(RESERVED_ANNOTATION_PREFIXES, RESERVED_ANNOTATION_MESSAGE),
    )
    """Annotations of the pods, for example for a service mesh."""

    service_account_annotations: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=2048)]], AfterValidator(_check_service_account_annotations)
    ] = Field(
        default={},
        max_length=16,
        json_schema_extra=cel_rules(
            (
                f"self.all(key, {' || '.join(f'key.startsWith({prefix!r})' for prefix in CLOUD_IDENTITY_PREFIXES)})",
                SERVICE_ACCOUNT_ANNOTATION_MESSAGE,
            )
        ),
    )
    """Annotations of the pods' ServiceAccount that select a cloud identity, such as `eks.amazonaws.com/role-arn`. The
    name of the ServiceAccount is the name of the StreamConsumer with the suffix `-consumer`. If unset, the pods have no
    cloud identity from annotations."""

    node_selector: dict[LabelKey, LabelValue] = Field(default={}, max_length=32)
    """Labels that a node must have to run the pods of this StreamConsumer."""

    tolerations: list[Toleration] = Field(
        default=[], max_length=32, examples=[[{"key": "example.com/spot", "operator": "Exists"}]]
    )
    """Tolerations for taints of nodes."""

    topology_spread_constraints: list[TopologySpreadConstraint] = Field(default=[], max_length=8)
    """Rules for the distribution of the pods over zones, nodes or other groups of nodes."""

    priority_class_name: ObjectName | None = None
    """Name of the PriorityClass of the pods."""

    runtime_class_name: ObjectName | None = None
    """Name of the RuntimeClass of the pods, for example for a sandbox."""

    image_pull_secrets: Annotated[list[ImagePullSecret], AfterValidator(unique_by_name)] = Field(
        default=[], max_length=16, json_schema_extra=LIST_MAP_BY_NAME
    )
    """Secrets with credentials for the registry of the image."""

    pod_disruption_budget: PodDisruptionBudget = PodDisruptionBudget()
    """Limit for the number of pods that a node drain may evict at the same time. If `replicas` (or
    `autoscaling.maxReplicas`) is 1, the operator creates no PodDisruptionBudget, because the budget would only block
    the drain."""

    rollout: Rollout = Rollout()
    """Limits for the replacement of pods after a configuration change."""
