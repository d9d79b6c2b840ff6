"""The sentence that answers "why seven?". Pure."""

from collections.abc import Callable

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import ScalingReason as Why
from streamconsumer.operator.autoscaling.throughput import Pace

_HELD: dict[Why, Callable[[Autoscaling], str]] = {
    Why.BACKLOG: lambda _: "",
    Why.ARRIVALS: lambda _: "to keep up with what arrives",
    Why.NOTHING_TO_DO: lambda _: "nothing to do",
    Why.BELOW_ACTIVATION: lambda rules: f"not more than the {rules.activation.backlog:,} that start a pod",
    Why.COOLING_DOWN: lambda rules: f"the last pod stays for {rules.cooldown.total_seconds():.0f} s",
    Why.STABILIZING: lambda _: "held by the stabilization window",
    Why.LIMITED_BY_POLICY: lambda _: "limited by a policy",
    Why.LIMITED_BY_MAX: lambda rules: f"max {rules.max_replicas}",
    Why.LIMITED_BY_MIN: lambda rules: f"min {rules.min_replicas}",
    Why.BACKLOG_UNKNOWN: lambda _: "what is unknown lowers nothing",
    Why.FALLBACK: lambda rules: f"fallback {rules.fallback.replicas if rules.fallback else 0}",
}


def sentence(rules: Autoscaling, found: str, change: tuple[int, int], why: Why, pace: Pace | None = None) -> str:
    """`3 → 7: ` what was found, what it is measured by, how fast it goes, what held it."""
    before, after = change
    number = f"{before} → {after}" if after != before else f"stays {after}"
    parts = (f"{number}: {found}", _target(rules), _speed(rules, why, pace) if pace else "", _HELD[why](rules))
    return ", ".join(part for part in parts if part)


def _target(rules: Autoscaling) -> str:
    drain_time = rules.target.drain_time
    if drain_time is None:
        return f"target {rules.target.share:,} a replica"
    return f"target done in {drain_time.total_seconds():,.0f} s"


def _speed(rules: Autoscaling, why: Why, pace: Pace) -> str:
    """Where it counted."""
    if rules.target.drain_time is None and why is not Why.ARRIVALS:
        return ""
    if pace.per_pod is None:
        return "a replica's pace not known yet"
    return f"{pace.arriving or 0:,.3g}/s arrive, a replica handles {pace.per_pod:,.3g}/s"
