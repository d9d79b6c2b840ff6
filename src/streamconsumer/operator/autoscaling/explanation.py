"""Text that explains a scaling decision. The functions in this module have no side effects."""

from collections.abc import Callable

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.model.status import ScalingReason
from streamconsumer.operator.autoscaling.throughput import Throughput

_REASON_TEXT: dict[ScalingReason, Callable[[Autoscaling], str]] = {
    ScalingReason.BACKLOG: lambda _: "",
    ScalingReason.ARRIVALS: lambda _: "to keep up with arrivals",
    ScalingReason.NOTHING_TO_DO: lambda _: "no work",
    ScalingReason.BELOW_ACTIVATION: lambda rules: f"at or below activation backlog {rules.activation.backlog:,}",
    ScalingReason.COOLING_DOWN: lambda rules: (
        f"last pod stays for {rules.cooldown.total_seconds():.0f} s after the last work"
    ),
    ScalingReason.STABILIZING: lambda _: "held by the stabilization window",
    ScalingReason.LIMITED_BY_POLICY: lambda _: "limited by a policy",
    ScalingReason.LIMITED_BY_MAX: lambda rules: f"max {rules.max_replicas}",
    ScalingReason.LIMITED_BY_MIN: lambda rules: f"min {rules.min_replicas}",
    ScalingReason.BACKLOG_UNKNOWN: lambda _: "backlog unknown, not scaling down",
    ScalingReason.FALLBACK: lambda rules: f"fallback {rules.fallback.replicas if rules.fallback else 0}",
}


def explain(
    rules: Autoscaling,
    backlog_text: str,
    replicas: tuple[int, int],
    reason: ScalingReason,
    throughput: Throughput | None = None,
) -> str:
    """Return the explanation. It starts with the change of the number of pods, such as `3 → 7`. After the change, it
    contains the backlog, the target, the measured rates and the rule that limited the number of pods."""
    current, desired = replicas
    change = f"{current} → {desired}" if desired != current else f"stays {desired}"
    if reason is ScalingReason.SECRETS_NOT_READABLE:  # full sentences with the remedy
        return f"{change}: {backlog_text}"
    parts = (
        f"{change}: {backlog_text}",
        _target_text(rules),
        _throughput_text(rules, reason, throughput) if throughput else "",
        _REASON_TEXT[reason](rules),
    )
    return ", ".join(part for part in parts if part)


def _target_text(rules: Autoscaling) -> str:
    drain_time = rules.target.drain_time
    if drain_time is None:
        return f"target {rules.target.backlog_share:,} per replica"
    return f"target drain time {drain_time.total_seconds():,.0f} s"


def _throughput_text(rules: Autoscaling, reason: ScalingReason, throughput: Throughput) -> str:
    """Return the measured rates, or an empty string if the decision does not depend on these rates."""
    if rules.target.drain_time is None and reason is not ScalingReason.ARRIVALS:
        return ""
    if throughput.per_pod_rate is None:
        return "throughput per replica not measured yet"
    return f"{throughput.arrival_rate or 0:,.3g}/s arrive, {throughput.per_pod_rate:,.3g}/s per replica"
