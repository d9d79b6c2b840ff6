"""Fields of `spec.autoscaling`: the backlog determines the number of pods. Implemented in `operator/autoscaling/`."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from streamconsumer.model.fields import DurationRange, Model, cel_rules

DEFAULT_BACKLOG_PER_REPLICA = 100

MULTIPLE_TARGETS = "set autoscaling.target.backlogPerReplica or drainTime, not both"
MIN_ABOVE_MAX = "autoscaling.minReplicas must not be above autoscaling.maxReplicas"


class ScalingPolicy(Model):
    """Limit for the change of the number of pods within a period, as in autoscaling/v2."""

    type: Literal["Pods", "Percent"]
    """Unit of `value`: Pods is a number of pods, Percent a percentage of the pods at the start of the period."""

    value: int = Field(ge=1, le=10_000)
    """Maximum change within one `period`, in pods or percent."""

    period: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(seconds=15)
    """Period that `value` applies to."""


class ScaleUp(Model):
    """Rules for adding pods."""

    stabilization_window: Annotated[timedelta, DurationRange("0s", "1h")] = timedelta(0)
    """Time window for scale-up: the number of pods rises to the lowest number needed within the window. The first pod
    is added without a delay."""

    policies: list[ScalingPolicy] = Field(default=[], max_length=8)
    """Limits for adding pods. The policy that allows the largest change applies. If empty, there is no limit."""


class ScaleDown(Model):
    """Rules for removing pods."""

    stabilization_window: Annotated[timedelta, DurationRange("0s", "1h")] = timedelta(minutes=1)
    """Time window for scale-down: the number of pods falls to the highest number needed within the window, so that a
    short dip removes no pods."""

    policies: list[ScalingPolicy] = Field(default=[], max_length=8)
    """Limits for removing pods. The policy that allows the largest change applies. If empty, there is no limit."""


class ScalingTarget(
    Model, json_schema_extra=cel_rules(("!(has(self.backlogPerReplica) && has(self.drainTime))", MULTIPLE_TARGETS))
):
    """Target of the autoscaling: a backlog per pod, or a time in which the backlog is processed."""

    backlog_per_replica: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Maximum number of unread and pending entries per pod. If neither `backlogPerReplica` nor `drainTime` is set,
    100."""

    drain_time: Annotated[timedelta, DurationRange("1s", "24h")] | None = None
    """Time in which the backlog should be processed, at the measured throughput of one busy pod. Until the throughput
    is measured, the number of pods does not change. Alternative to `backlogPerReplica`."""

    @model_validator(mode="after")
    def _check_one_target(self) -> Self:
        if self.drain_time is not None and self.backlog_per_replica is not None:
            raise ValueError(MULTIPLE_TARGETS)
        return self

    @property
    def backlog_share(self) -> int:
        """Entries per pod if no drain time is set."""
        return self.backlog_per_replica or DEFAULT_BACKLOG_PER_REPLICA


class Activation(Model):
    """Condition for starting the first pod."""

    backlog: int = Field(default=0, ge=0, le=1_000_000_000)
    """Backlog that must be exceeded before the first pod is started. With 0, one entry starts a pod."""


class Fallback(Model):
    """Number of pods while Redis does not answer the operator."""

    replicas: int = Field(ge=1, le=1000)
    """Minimum number of pods after Redis has not answered for `after`."""

    after: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(minutes=1)
    """Duration without an answer after which the fallback applies."""


class Autoscaling(
    Model,
    json_schema_extra=cel_rules(
        (
            "(has(self.minReplicas) ? self.minReplicas : 0) <= (has(self.maxReplicas) ? self.maxReplicas : 10)",
            MIN_ABOVE_MAX,
        )
    ),
):
    """Autoscaling of the number of pods by the backlog: the entries that the group has not read, plus the entries that
    it has not acknowledged."""

    min_replicas: int = Field(default=0, ge=0, le=1000)
    """Minimum number of pods. 0 allows scaling to zero when there is no work."""

    max_replicas: int = Field(default=10, ge=1, le=1000)
    """Maximum number of pods."""

    target: ScalingTarget = ScalingTarget()
    """Target of the autoscaling. If unset, a backlog of 100 entries per pod. Once the throughput of one pod is
    measured, there are never fewer pods than needed to keep up with new entries."""

    activation: Activation = Activation()
    """Condition for starting the first pod."""

    cooldown: Annotated[timedelta, DurationRange("0s", "24h")] = timedelta(minutes=5)
    """Duration without work after which the last pod is removed."""

    scale_up: ScaleUp = ScaleUp()
    """Rules for adding pods. If unset, all needed pods are added immediately."""

    scale_down: ScaleDown = ScaleDown()
    """Rules for removing pods. If unset, pods are removed after they were not needed for one minute."""

    fallback: Fallback | None = None
    """Number of pods while Redis does not answer the operator. Pods are only added, never removed, during that time. If
    unset, the number does not change."""

    @model_validator(mode="after")
    def _check_replica_bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(MIN_ABOVE_MAX)
        return self
