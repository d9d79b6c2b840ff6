"""Facts → what is wrong, and what to do about it. Pure.

The operator's conclusions are in the conditions; `model/reasons.py` has the action for each reason. This module adds
what only shows when pods and pending entries are compared.
"""

from collections.abc import Iterator

from streamconsumer.cli.status.facts import ConsumerFacts, Facts, Finding, PendingEntryFacts
from streamconsumer.model.reasons import action_for
from streamconsumer.model.status import Condition, Reason, ScalingReason, StreamReason
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER

SUSPECT_DELIVERIES = 2
"""An entry that was begun so often and is still pending fails, or ends its process."""

MIN_SILENT_SECONDS = 60
"""Pods show a sign of life every 0.4 s for what they hold."""

_ABNORMAL_STATUS = {"Ready": "False", "RedisReachable": "False", "GroupReady": "False", "Degraded": "True"}
_TRANSIENT_REASONS = {Reason.PODS_STARTING, Reason.ROLLING_OUT, StreamReason.GROUP_MISSING}
"""What passes by itself: worth a warning."""


def derive_findings(facts: Facts) -> list[Finding]:
    """Errors first; none where all is well."""
    found = [
        *_operator_findings(facts),
        *_condition_findings(facts),
        *_scaling_findings(facts),
        *_pod_findings(facts),
        *_redis_findings(facts),
    ]
    return sorted(found, key=lambda each: each.severity != "error")


def _operator_findings(facts: Facts) -> Iterator[Finding]:
    about = f"StreamConsumer {facts.name}"
    advice = "see whether the operator runs and watches this namespace: kubectl logs of its Deployment"
    if facts.status is None:
        yield error(about, "it has no status", "the operator reports within seconds", advice)
    elif facts.status.observed_generation < facts.generation:
        seen = f"the operator last acted on generation {facts.status.observed_generation}"
        yield error(about, seen, f"generation {facts.generation}, the newest", advice)


def _condition_findings(facts: Facts) -> Iterator[Finding]:
    for kind, wrong in _ABNORMAL_STATUS.items():
        condition = facts.conditions.get(kind)
        if condition and condition.status == wrong:
            passes = condition.reason in _TRANSIENT_REASONS
            make = warning if passes else error
            expected = f"{kind} {'False' if wrong == 'True' else 'True'}"
            advice = action_for(condition.reason, _target_options(facts))
            yield make(f"StreamConsumer {facts.name}", _condition_text(condition), expected, advice)


def _target_options(facts: Facts) -> str:
    """As the command line is told which StreamConsumer is meant."""
    return f"--name {facts.name} -n {facts.namespace}"


def _condition_text(condition: Condition) -> str:
    return f"{condition.reason}: {condition.message}" if condition.message else condition.reason


def _scaling_findings(facts: Facts) -> Iterator[Finding]:
    about = f"autoscaling of {facts.name}"
    active, limited = facts.conditions.get("ScalingActive"), facts.conditions.get("ScalingLimited")
    if active and active.reason in (ScalingReason.BACKLOG_UNKNOWN, ScalingReason.FALLBACK):
        yield warning(about, _condition_text(active), "a backlog that is known", action_for(active.reason))
    if limited and limited.status == "True" and limited.reason == ScalingReason.LIMITED_BY_MAX:
        yield warning(about, _condition_text(limited), "as many pods as the backlog wants", action_for(limited.reason))


def _pod_findings(facts: Facts) -> Iterator[Finding]:
    ready = facts.conditions.get("Ready")
    for pod in facts.pods:
        told = ready is not None and pod.name in ready.message
        if not told and not pod.ready and pod.last_words:
            advice = f"kubectl logs {pod.name} -n {facts.namespace} --previous"
            yield error(f"Pod {pod.name}", pod.last_words, "a container that runs", advice)
        elif pod.ready and pod.restarts:
            times = "once" if pod.restarts == 1 else f"{pod.restarts} times"
            advice = f"kubectl logs {pod.name} -n {facts.namespace} --previous says why"
            words = f" ({pod.last_words})" if pod.last_words else ""
            yield warning(f"Pod {pod.name}", f"it was restarted {times}{words}", "no restarts", advice)


def _redis_findings(facts: Facts) -> Iterator[Finding]:
    seen = facts.redis
    if seen.figures and seen.figures.dead_letters and not _dead_letters_grow(facts):
        number = seen.figures.dead_letters
        advice = (
            f"look at them, then replay or drop them: kubectl streamconsumer dead-letters list {_target_options(facts)}"
        )
        found = "1 dead letter" if number == 1 else f"{number} dead letters"
        yield warning(f"group {facts.consumer_group!r}", found, "none", advice)
    for consumer in seen.consumers or []:
        yield from _consumer_findings(facts, consumer)
    for entry in seen.oldest or []:
        yield from _entry_findings(entry)


def _dead_letters_grow(facts: Facts) -> bool:
    degraded = facts.conditions.get("Degraded")
    return degraded is not None and degraded.reason == StreamReason.DEAD_LETTERS_GROWING


def _consumer_findings(facts: Facts, consumer: ConsumerFacts) -> Iterator[Finding]:
    if (
        not consumer.pending
        or consumer.is_pod
        or consumer.name == POSTPONED_CONSUMER
        or consumer.idle_seconds < MIN_SILENT_SECONDS
    ):
        return
    advice = (
        "resume it, so that pods take them over"
        if facts.suspended
        else "let a pod run; it takes them over when their consumer is dead, or after delivery.minIdle"
    )
    found = f"it holds {consumer.pending} pending, is no pod and was silent for {consumer.idle_seconds} s"
    yield warning(f"consumer {consumer.name!r}", found, "a living consumer for what is pending", advice)


def _entry_findings(entry: PendingEntryFacts) -> Iterator[Finding]:
    if entry.deliveries < SUSPECT_DELIVERIES:
        return
    where = "it waits for another try" if entry.consumer == POSTPONED_CONSUMER else f"{entry.consumer!r} holds it"
    found = f"it was begun {entry.deliveries} times and is still pending; {where}"
    advice = "read in the pods' log why it fails; after delivery.maxDeliveries it becomes a dead letter"
    yield warning(f"entry {entry.message_id}", found, "handled at the first attempt", advice)


def error(subject: str, found: str, expected: str, advice: str) -> Finding:
    return Finding(severity="error", object=subject, found=found, expected=expected, advice=advice)


def warning(subject: str, found: str, expected: str, advice: str) -> Finding:
    return Finding(severity="warning", object=subject, found=found, expected=expected, advice=advice)
