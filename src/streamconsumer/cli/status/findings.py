"""Facts → what is wrong, and what to do about it. Pure.

What the operator concluded stands in the conditions; here is what to do about each of their reasons, and what only
shows when pods and pending entries are put side by side.
"""

from collections.abc import Iterator

from streamconsumer.cli.status.facts import ConsumerFacts, Facts, Finding, PendingEntryFacts
from streamconsumer.model.status import Condition, Reason, ScalingReason, StreamReason
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER

SUSPECT_DELIVERIES = 2
"""An entry that was begun so often and is still pending fails, or ends its process."""

MIN_SILENT_SECONDS = 60
"""Pods show a sign of life every 0.4 s for what they hold."""

_ADVICE: dict[str, str] = {
    Reason.INVALID_SPEC: "correct the spec as the message says",
    Reason.NAME_CONFLICT: "delete or rename the object that has the name, or rename the StreamConsumer",
    Reason.CHILD_REJECTED: "correct what the API server refuses: a quota, an admission policy or a field of the spec",
    Reason.IMAGE_UNAVAILABLE: "correct spec.image, or give spec.imagePullSecrets",
    Reason.UNSCHEDULABLE: "add nodes, or lower spec.resources, or correct nodeSelector and tolerations",
    Reason.POD_CREATION_FAILED: "look at quota and Pod Security of the namespace",
    Reason.HANDLER_UNUSABLE: "correct spec.handler, or build the image so that it can be imported",
    Reason.INVALID_SETTINGS: "correct the setting that is named, or the Secret behind it",
    Reason.POD_INVALID: "create the Secret or ConfigMap that is named, or the key in it",
    Reason.POD_CRASHING: "read why: kubectl logs --previous of the pod",
    Reason.REDIS_UNUSABLE: "correct what the message names: spec.redis, its Secrets, or the server",
    Reason.ROLLOUT_TIMED_OUT: "look at the pods: kubectl describe",
    StreamReason.UNREACHABLE: "check host and port of spec.redis, whether Redis runs, and NetworkPolicies",
    StreamReason.CREDENTIALS_REFUSED: "correct the user or the password in the Secret",
    StreamReason.TLS_FAILED: "correct spec.redis.tls or the certificates behind it",
    StreamReason.SERVER_NOT_READY: "wait; if it lasts, look at the Redis server",
    StreamReason.SECRET_MISSING: "create the Secret, or the key in it",
    StreamReason.GROUP_MISSING: "let a pod start; it creates the group",
    StreamReason.NOT_A_STREAM: "name another key in spec.stream, or rename the other one",
    StreamReason.NO_PERMISSION: "grant the right with ACL SETUSER; docs/redis.md lists the rights",
    StreamReason.DEAD_LETTERS_GROWING: "read why: kubectl streamconsumer dead-letters list {where}",
    StreamReason.PENDING_STUCK: "look at the pod that holds it; set delivery.timeout to bound a handler that hangs",
    ScalingReason.LIMITED_BY_MAX: "raise autoscaling.maxReplicas if the backlog is to go faster",
    ScalingReason.BACKLOG_UNKNOWN: "let the operator see Redis; until then nothing is scaled",
    ScalingReason.FALLBACK: "let the operator see Redis; until then the fallback counts",
}

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
            advice = _advice(condition.reason).replace("{where}", _target_options(facts))
            yield make(f"StreamConsumer {facts.name}", _condition_text(condition), expected, advice)


def _target_options(facts: Facts) -> str:
    """As the command line is told which StreamConsumer is meant."""
    return f"--name {facts.name} -n {facts.namespace}"


def _condition_text(condition: Condition) -> str:
    return f"{condition.reason}: {condition.message}" if condition.message else condition.reason


def _advice(reason: str) -> str:
    return _ADVICE.get(reason, "wait; if it lasts, look at the pods: kubectl describe")


def _scaling_findings(facts: Facts) -> Iterator[Finding]:
    about = f"autoscaling of {facts.name}"
    active, limited = facts.conditions.get("ScalingActive"), facts.conditions.get("ScalingLimited")
    if active and active.reason in (ScalingReason.BACKLOG_UNKNOWN, ScalingReason.FALLBACK):
        yield warning(about, _condition_text(active), "a backlog that is known", _advice(active.reason))
    if limited and limited.status == "True" and limited.reason == ScalingReason.LIMITED_BY_MAX:
        yield warning(about, _condition_text(limited), "as many pods as the backlog wants", _advice(limited.reason))


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
