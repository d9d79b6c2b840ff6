"""What the operator says of a StreamConsumer, in words that kubectl wait, kstatus, Flux and Argo CD understand.

Pure: the clock is an argument. Conditions follow kstatus: Ready is what people wait for, Reconciling and Stalled
say whether waiting will help.
"""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from streamconsumer.model.fields import Model

CONDITIONS = ("Ready", "Reconciling", "Stalled", "Suspended")


class Reason(StrEnum):
    """Why a condition is as it is. Fixed: people write alerts on these."""

    ALL_PODS_READY = "AllPodsReady"
    SCALED_TO_ZERO = "ScaledToZero"
    SUSPENDED = "Suspended"
    PODS_STARTING = "PodsStarting"
    ROLLING_OUT = "RollingOut"
    SETTLED = "Settled"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    CHILD_REFUSED = "ChildRefused"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    UNSCHEDULABLE = "Unschedulable"
    PODS_REFUSED = "PodsRefused"
    HANDLER_UNUSABLE = "HandlerUnusable"
    INVALID_SETTINGS = "InvalidSettings"
    POD_INVALID = "PodInvalid"
    POD_CRASHING = "PodCrashing"
    ROLLOUT_TIMED_OUT = "RolloutTimedOut"


class Told(Model):
    """What stands in a status. A newer operator may have said more: that is no reason to forget the rest."""

    model_config = ConfigDict(extra="ignore")


class Condition(Told):
    """One fact with its reason, as metav1.Condition."""

    type: str = Field(max_length=316)
    """Ready, Reconciling, Stalled or Suspended."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: str = Field(max_length=1024)
    """Why, in one CamelCase word of a fixed list."""
    message: str = Field("", max_length=32_768)
    """Why, in a sentence."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When status changed last."""
    observed_generation: int = 0
    """The generation of the spec that this was said of."""


class Status(Told):
    """What the operator last saw."""

    observed_generation: int = 0
    """The generation of the spec that the operator acted on last."""
    conditions: list[Condition] = Field(
        [],
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Ready, Reconciling, Stalled and Suspended."""
    desired_replicas: int = 0
    """How many pods are wanted, by whoever scales."""
    replicas: int = 0
    """How many pods there are."""
    ready_replicas: int = 0
    """How many pods read the stream."""
    selector: str = ""
    """The label selector of the pods, for the scale subresource."""


class Verdict(Model):
    """What the operator concludes, before it is dated: the conditions follow from these four."""

    ready: bool
    reason: Reason
    message: str
    reconciling: bool = False
    stalled: bool = False


def conditions(verdict: Verdict, generation: int, previous: list[Condition], now: datetime) -> list[Condition]:
    """Ready, Reconciling, Stalled and Suspended. A condition that keeps its status keeps its lastTransitionTime."""
    since = {(condition.type, condition.status): condition.last_transition_time for condition in previous}
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def condition(kind: str, *, holds: bool, reason: Reason, message: str) -> Condition:
        status: Literal["True", "False"] = "True" if holds else "False"
        return Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=since.get((kind, status), moment),
            observed_generation=generation,
        )

    def abnormal(kind: str, *, holds: bool) -> Condition:
        reason, message = (verdict.reason, verdict.message) if holds else (Reason.SETTLED, "")
        return condition(kind, holds=holds, reason=reason, message=message)

    return [
        condition("Ready", holds=verdict.ready, reason=verdict.reason, message=verdict.message),
        abnormal("Reconciling", holds=verdict.reconciling),
        abnormal("Stalled", holds=verdict.stalled),
        abnormal("Suspended", holds=verdict.reason is Reason.SUSPENDED),
    ]
