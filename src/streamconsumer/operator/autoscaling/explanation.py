"""The sentence that answers "why seven?". Pure."""

from collections.abc import Callable

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import ScalingReason as Why
from streamconsumer.operator.autoscaling.throughput import Throughput

_REASON_TEXT: dict[Why, Callable[[Autoscaling], str]] = {
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


def explain(
    rules: Autoscaling, backlog_text: str, replicas: tuple[int, int], reason: Why, throughput: Throughput | None = None
) -> str:
    """`3 → 7: ` what was found, what it is measured by, how fast it goes, what held it."""
    before, after = replicas
    number = f"{before} → {after}" if after != before else f"stays {after}"
    parts = (
        f"{number}: {backlog_text}",
        _target_text(rules),
        _throughput_text(rules, reason, throughput) if throughput else "",
        _REASON_TEXT[reason](rules),
    )
    return ", ".join(part for part in parts if part)


def _target_text(rules: Autoscaling) -> str:
    drain_time = rules.target.drain_time
    if drain_time is None:
        return f"target {rules.target.backlog_share:,} a replica"
    return f"target done in {drain_time.total_seconds():,.0f} s"


def _throughput_text(rules: Autoscaling, reason: Why, throughput: Throughput) -> str:
    """Where it counted."""
    if rules.target.drain_time is None and reason is not Why.ARRIVALS:
        return ""
    if throughput.per_pod_rate is None:
        return "a replica's pace not known yet"
    return f"{throughput.arrival_rate or 0:,.3g}/s arrive, a replica handles {throughput.per_pod_rate:,.3g}/s"
