"""How many pods a StreamConsumer wants, where its backlog decides: what a user writes under `autoscaling`."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from streamconsumer.model.fields import DurationRange, Model, cel_rules

DEFAULT_BACKLOG_PER_REPLICA = 100

MULTIPLE_TARGETS = "autoscaling.target has backlogPerReplica or drainTime, not both"
MIN_ABOVE_MAX = "autoscaling.minReplicas must not be above autoscaling.maxReplicas"


class ScalingPolicy(Model):
    """One limit on how fast the number of pods changes, as in autoscaling/v2."""

    type: Literal["Pods", "Percent"]
    """Whether `value` is a number of pods or a share of those there were."""

    value: int = Field(ge=1, le=10_000)
    """So many pods, or so many percent, within one `period` at most."""

    period: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(seconds=15)
    """The time that `value` is for."""


class ScaleUp(Model):
    """How the number grows. Left out: at once to what is needed."""

    stabilization_window: Annotated[timedelta, DurationRange("0s", "1h")] = timedelta(0)
    """The number only grows to what was needed all this time. From zero pods it grows at once."""

    policies: list[ScalingPolicy] = Field([], max_length=8)
    """Limits; the one that allows most counts."""


class ScaleDown(Model):
    """How the number shrinks."""

    stabilization_window: Annotated[timedelta, DurationRange("0s", "1h")] = timedelta(minutes=1)
    """The number only shrinks to the most that was needed in this time: a dip is not the end of the work."""

    policies: list[ScalingPolicy] = Field([], max_length=8)
    """Limits; the one that allows most counts."""


class ScalingTarget(
    Model, json_schema_extra=cel_rules(("!(has(self.backlogPerReplica) && has(self.drainTime))", MULTIPLE_TARGETS))
):
    """What one pod is for: a share of the backlog, or its part in having it done in time. However that is, there are
    no fewer pods than it takes to keep up with what arrives, once it was seen how fast one is."""

    backlog_per_replica: int | None = Field(None, ge=1, le=1_000_000_000)
    """How many entries one pod should have before it, read or not: there are so many pods that none has more. 100 where
    no target is given."""

    drain_time: Annotated[timedelta, DurationRange("1s", "24h")] | None = None
    """How soon the backlog should be done, at the pace that was measured: that of one pod while it has more to do than
    it can. Until there is one, the number stays. In place of `backlogPerReplica`."""

    @model_validator(mode="after")
    def _check_one_target(self) -> Self:
        if self.drain_time is not None and self.backlog_per_replica is not None:
            raise ValueError(MULTIPLE_TARGETS)
        return self

    @property
    def backlog_share(self) -> int:
        """Entries a pod, where there is no drain time."""
        return self.backlog_per_replica or DEFAULT_BACKLOG_PER_REPLICA


class Activation(Model):
    """What it takes to leave zero pods."""

    backlog: int = Field(0, ge=0, le=1_000_000_000)
    """More entries than this must wait. With 0, one message starts a pod."""


class Fallback(Model):
    """What to do while Redis does not answer the operator. The number never shrinks then."""

    replicas: int = Field(ge=1, le=1000)
    """At least so many pods, once it has not answered for so long."""

    after: Annotated[timedelta, DurationRange("1s", "1h")] = timedelta(minutes=1)
    """How long it must not have answered."""


class Autoscaling(
    Model,
    json_schema_extra=cel_rules(
        (
            "(has(self.minReplicas) ? self.minReplicas : 0) <= (has(self.maxReplicas) ? self.maxReplicas : 10)",
            MIN_ABOVE_MAX,
        )
    ),
):
    """Let the backlog say how many pods there are: entries that the group has not read and those that it has not
    acknowledged, together."""

    min_replicas: int = Field(0, ge=0, le=1000)
    """At least so many. With 0, there are none while there is nothing to do."""

    max_replicas: int = Field(10, ge=1, le=1000)
    """At most so many."""

    target: ScalingTarget = ScalingTarget()
    """What one pod is for."""

    activation: Activation = Activation()
    """What it takes to leave zero pods."""

    cooldown: Annotated[timedelta, DurationRange("0s", "24h")] = timedelta(minutes=5)
    """How long there must have been nothing to do before the last pod goes."""

    scale_up: ScaleUp = ScaleUp()
    """How the number grows."""

    scale_down: ScaleDown = ScaleDown()
    """How the number shrinks."""

    fallback: Fallback | None = None
    """What to do while Redis does not answer the operator. Left out: the number stays."""

    @model_validator(mode="after")
    def _check_replica_bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(MIN_ABOVE_MAX)
        return self
