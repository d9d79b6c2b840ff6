"""Derives the problems of a StreamConsumer, and the remedies, from the facts. The functions have no side effects.

The operator reports problems in the conditions, and `model/reasons.py` contains the remedy for each reason. This module
adds problems that follow from the pods, the consumers and the pending entries.
"""

from collections.abc import Iterator

from streamconsumer.cli.status.facts import ConsumerFacts, Facts, Finding, PendingEntryFacts
from streamconsumer.model import names
from streamconsumer.model.reasons import action_for
from streamconsumer.model.status import Condition, Reason, ScalingReason, StreamReason
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER

SUSPECT_DELIVERIES = 2
"""A pending entry is reported if it was delivered at least this number of times. Such an entry probably fails or
crashes the process."""

MIN_SILENT_SECONDS = 60
"""A consumer with pending entries is reported if the consumer has been idle for at least this number of seconds. Pods
renew their pending entries every 0.4 s."""

INSTALL_COMMAND = (
    "helm install streamconsumer charts/streamconsumer-operator --namespace streamconsumer-system --create-namespace"
)
"""Command that installs the operator and the CRD."""

_ABNORMAL_STATUS = {"Ready": "False", "RedisReachable": "False", "GroupReady": "False", "Degraded": "True"}
_TRANSIENT_REASONS = {Reason.PODS_STARTING, Reason.ROLLING_OUT, StreamReason.GROUP_MISSING}
"""Reasons that usually disappear without any action by the user. Problems with these reasons are warnings."""


def derive_findings(facts: Facts) -> list[Finding]:
    """Return the problems, errors first. The list is empty if there are no problems."""
    findings = [
        *_operator_findings(facts),
        *_condition_findings(facts),
        *_scaling_findings(facts),
        *_secrets_findings(facts),
        *_pod_findings(facts),
        *_redis_findings(facts),
    ]
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _operator_findings(facts: Facts) -> Iterator[Finding]:
    subject = f"StreamConsumer {facts.name}"
    advice = (
        "check that the operator is running and watches this namespace: "
        f"kubectl streamconsumer doctor {facts.name} -n {facts.namespace}"
    )
    if facts.status is None:
        yield error(subject, "no valid status", "a status from the operator within seconds", advice)
    elif facts.status.observed_generation < facts.generation:
        found = f"the operator last reconciled generation {facts.status.observed_generation}"
        yield error(subject, found, f"generation {facts.generation}, the latest", advice)


def _condition_findings(facts: Facts) -> Iterator[Finding]:
    for condition_type, abnormal in _ABNORMAL_STATUS.items():
        condition = facts.conditions.get(condition_type)
        if condition and condition.status == abnormal and not _is_expected(condition, facts):
            severity = warning if condition.reason in _TRANSIENT_REASONS else error
            expected = f"{condition_type} {'False' if abnormal == 'True' else 'True'}"
            advice = action_for(condition.reason, _target_options(facts))
            yield severity(f"StreamConsumer {facts.name}", _condition_text(condition), expected, advice)
    ready = facts.conditions.get("Ready")
    if ready and ready.status == "True" and ready.reason == Reason.RECONCILE_FAILED:
        advice = action_for(ready.reason, _target_options(facts))
        yield error(f"StreamConsumer {facts.name}", _condition_text(ready), "Reconciling False", advice)


def _is_expected(condition: Condition, facts: Facts) -> bool:
    """Return True if the group is missing because no pod is desired yet. The first pod creates the group."""
    no_pods_desired = facts.status is not None and facts.status.desired_replicas == 0
    return condition.reason == StreamReason.GROUP_MISSING and no_pods_desired


def _target_options(facts: Facts) -> str:
    """Return the options that name the StreamConsumer on the command line."""
    return f"--name {facts.name} -n {facts.namespace}"


def _condition_text(condition: Condition) -> str:
    return f"{condition.reason}: {condition.message}" if condition.message else condition.reason


def _scaling_findings(facts: Facts) -> Iterator[Finding]:
    subject = f"autoscaling of {facts.name}"
    active, limited = facts.conditions.get("ScalingActive"), facts.conditions.get("ScalingLimited")
    if active and active.reason in (ScalingReason.BACKLOG_UNKNOWN, ScalingReason.FALLBACK):
        yield warning(subject, _condition_text(active), "a known backlog", action_for(active.reason))
    if limited and limited.status == "True" and limited.reason == ScalingReason.LIMITED_BY_MAX:
        yield warning(subject, _condition_text(limited), "enough pods for the backlog", action_for(limited.reason))


def _secrets_findings(facts: Facts) -> Iterator[Finding]:
    if facts.is_missing_secrets:
        options = f"{facts.name} -n {facts.namespace}"
        advice = f"grant the permission; `kubectl streamconsumer doctor {options}` prints the command"
        yield unreadable_secrets(facts.namespace, "the operator is not allowed to get the Secrets", advice)


def _pod_findings(facts: Facts) -> Iterator[Finding]:
    ready = facts.conditions.get("Ready")
    for pod in (pod for pod in facts.pods if pod.phase not in names.ENDED_POD_PHASES):
        is_in_condition = ready is not None and pod.name in ready.message
        advice = f"read the log: kubectl logs {pod.name} -n {facts.namespace} --previous"
        if not is_in_condition and not pod.ready and pod.exit_message:
            yield error(f"Pod {pod.name}", pod.exit_message, "a running container", advice)
        elif pod.ready and pod.restarts:
            times = "once" if pod.restarts == 1 else f"{pod.restarts} times"
            message = f" ({pod.exit_message})" if pod.exit_message else ""
            yield warning(f"Pod {pod.name}", f"restarted {times}{message}", "no restarts", advice)


def _redis_findings(facts: Facts) -> Iterator[Finding]:
    redis = facts.redis
    if redis.stats and redis.stats.dead_letters and not _dead_letters_grow(facts):
        count = redis.stats.dead_letters
        command = f"kubectl streamconsumer dead-letters list {_target_options(facts)}"
        found = "1 dead letter" if count == 1 else f"{count} dead letters"
        yield warning(
            f"group {facts.consumer_group!r}",
            found,
            "none",
            f"list the dead letters, then replay or drop them: {command}",
        )
    for consumer in redis.consumers or []:
        yield from _consumer_findings(facts, consumer)
    for entry in redis.oldest_pending or []:
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
        "resume the StreamConsumer, so that its pods claim the entries"
        if facts.suspended
        else "start a pod; it claims entries of dead pods within seconds, and all other entries after delivery.minIdle"
    )
    found = f"{consumer.pending} pending entries, idle for {consumer.idle_seconds} s; no pod has this name"
    yield warning(f"consumer {consumer.name!r}", found, "a live consumer for each pending entry", advice)


def _entry_findings(entry: PendingEntryFacts) -> Iterator[Finding]:
    if entry.deliveries < SUSPECT_DELIVERIES:
        return
    state = "waits for a retry" if entry.consumer == POSTPONED_CONSUMER else f"owned by {entry.consumer!r}"
    found = f"delivered {entry.deliveries} times and still pending; {state}"
    advice = "read the cause in the pod logs; after delivery.maxDeliveries attempts, the entry becomes a dead letter"
    yield warning(f"entry {entry.message_id}", found, "success on the first attempt", advice)


def unreadable_secrets(namespace: str, found: str, advice: str, command: str = "") -> Finding:
    """Return the finding that the operator has no permission to get the Secrets of a namespace."""
    expected = (
        "permission to get the Secrets, so that the operator monitors and autoscales streams whose spec.redis refers "
        "to a Secret, creates their groups, and replaces pods after a Secret in env or envFrom has changed"
    )
    finding = warning(f"Secrets in namespace {namespace}", found, expected, advice)
    return finding.model_copy(update={"command": command})


def error(subject: str, found: str, expected: str, advice: str) -> Finding:
    """Return a finding of severity error."""
    return Finding(severity="error", object=subject, found=found, expected=expected, advice=advice)


def warning(subject: str, found: str, expected: str, advice: str) -> Finding:
    """Return a finding of severity warning."""
    return Finding(severity="warning", object=subject, found=found, expected=expected, advice=advice)
