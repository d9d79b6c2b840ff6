"""Fields of `spec.autoscaling`, which derives the number of pods from the backlog. `operator/autoscaling/` contains the
algorithm.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from streamconsumer.model.fields import DurationRange, Model, cel_rules

DEFAULT_BACKLOG_PER_REPLICA = 100

MULTIPLE_TARGETS = "set autoscaling.target.backlogPerReplica or drainTime, not both"
MIN_ABOVE_MAX = "autoscaling.minReplicas must not be above autoscaling.maxReplicas"


class ScalingPolicy(Model):
    """Limit for how much the number of pods may change within a period, as in autoscaling/v2."""

    type: Literal["Pods", "Percent"]
    """Unit of `value`: `Pods` is a number of pods; `Percent` is a percentage of the number of pods at the start of the
    period."""

    value: int = Field(ge=1, le=10_000)
    """Maximum change of the number of pods within one `period`, in the unit that `type` sets."""

    period: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(seconds=15)
    """Length of the period in which the number of pods may change by at most `value`."""


class ScaleUp(Model):
    """Rules for adding pods."""

    stabilization_window: Annotated[timedelta, DurationRange("0s", "1h")] = timedelta(0)
    """Stabilization window for adding pods. A scale-up is limited to the lowest number of pods that was needed within
    the window, so a short peak adds no pods. The stabilization window does not delay the first pod."""

    policies: list[ScalingPolicy] = Field(default=[], max_length=8)
    """Limits for adding pods. If there are several policies, the policy that allows the largest change applies. If the
    list is empty, the operator can add any number of pods within a period."""


class ScaleDown(Model):
    """Rules for removing pods."""

    stabilization_window: Annotated[timedelta, DurationRange("0s", "1h")] = timedelta(minutes=1)
    """Stabilization window for removing pods. A scale-down is limited to the highest number of pods that was needed
    within the window, so a short dip of the backlog removes no pods."""

    policies: list[ScalingPolicy] = Field(default=[], max_length=8)
    """Limits for removing pods. If there are several policies, the policy that allows the largest change applies. If
    the list is empty, the operator can remove any number of pods within a period."""


class ScalingTarget(
    Model, json_schema_extra=cel_rules(("!(has(self.backlogPerReplica) && has(self.drainTime))", MULTIPLE_TARGETS))
):
    """Target of the autoscaling: either a backlog per pod or a time in which the pods process the backlog."""

    backlog_per_replica: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Target number of unread and pending entries per pod. If the backlog per pod is above this target, the operator
    adds pods. If neither `backlogPerReplica` nor `drainTime` is set, the target is 100."""

    drain_time: Annotated[timedelta, DurationRange("1s", "24h")] | None = None
    """Time in which the pods should process the backlog. The operator computes the number of pods from the measured
    throughput of one busy pod. Before the first measurement, the operator can start the first pod, but adds no further
    pods. Alternative to `backlogPerReplica`."""

    @model_validator(mode="after")
    def _check_one_target(self) -> Self:
        if self.drain_time is not None and self.backlog_per_replica is not None:
            raise ValueError(MULTIPLE_TARGETS)
        return self

    @property
    def backlog_share(self) -> int:
        """Number of entries per pod that autoscaling aims for if no drain time is set."""
        return self.backlog_per_replica or DEFAULT_BACKLOG_PER_REPLICA


class Activation(Model):
    """Condition for starting the first pod."""

    backlog: int = Field(default=0, ge=0, le=1_000_000_000)
    """Threshold for the number of unread entries. The operator starts the first pod if the number of unread entries is
    above this threshold, or if any entry is pending. If 0, a single unread entry starts a pod."""


class Fallback(Model):
    """Number of pods while Redis does not answer the operator."""

    replicas: int = Field(ge=1, le=1000)
    """Minimum number of pods that applies if Redis has not answered the operator for the time in `after`."""

    after: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(minutes=1)
    """If Redis has not answered the operator for this time, the number of pods is at least `replicas`."""


class Autoscaling(
    Model,
    json_schema_extra=cel_rules(
        (
            "(has(self.minReplicas) ? self.minReplicas : 0) <= (has(self.maxReplicas) ? self.maxReplicas : 10)",
            MIN_ABOVE_MAX,
        )
    ),
):
    """Scales the number of pods with the backlog. The backlog is the number of entries that the consumer
    group has not read plus the number of entries that the group has read but not acknowledged."""

    min_replicas: int = Field(default=0, ge=0, le=1000)
    """Minimum number of pods. If 0, the operator removes all pods when there is no work."""

    max_replicas: int = Field(default=10, ge=1, le=1000)
    """Maximum number of pods."""

    target: ScalingTarget = ScalingTarget()
    """Target of the autoscaling. If unset, the target is a backlog of 100 entries per pod. Once the operator has
    measured the throughput of one pod, it also runs enough pods to handle new entries as fast as they arrive. The
    number of pods never exceeds `maxReplicas`."""

    activation: Activation = Activation()
    """Condition for starting the first pod."""

    cooldown: Annotated[timedelta, DurationRange("0s", "24h")] = timedelta(minutes=5)
    """Time without unread or pending entries after which the operator removes the last pod."""

    scale_up: ScaleUp = ScaleUp()
    """Rules for adding pods. If unset, all needed pods are added immediately."""

    scale_down: ScaleDown = ScaleDown()
    """Rules for removing pods. If unset, a pod is removed after it has not been needed for one minute."""

    fallback: Fallback | None = None
    """Number of pods while Redis does not answer the operator. Without answers from Redis, the operator can add pods
    but removes no pods. If unset, the number of pods does not change while Redis does not answer."""

    @model_validator(mode="after")
    def _check_replica_bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(MIN_ABOVE_MAX)
        return self
