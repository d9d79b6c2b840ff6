"""Scaling algorithm: computes the number of pods, and the reason for this number, from a probe of the stream.

Two rules take precedence over all other rules. First, the number of pods may grow but does not shrink while the backlog
is unknown, because an unknown backlog may be large. Second, the number of pods becomes zero only after all entries have
been read and acknowledged. With zero pods, no pod would handle the remaining entries.

The functions in this module have no side effects: the caller passes the current time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from streamconsumer.model.autoscaling import Autoscaling, ScalingPolicy
from streamconsumer.model.status import ScalingReason
from streamconsumer.operator.autoscaling.explanation import explain
from streamconsumer.operator.autoscaling.throughput import Sample, Throughput

MAX_PERIOD_SECONDS = 3600.0
"""Maximum period of a scaling policy."""


@dataclass(frozen=True)
class Backlog:
    """Numbers of entries in a consumer group, as found by one probe."""

    unread: int | None
    """Number of entries that have not been delivered to the group yet. None if unknown."""
    pending: int
    """Number of entries that have been delivered and are not acknowledged."""
    is_exact: bool = True
    """True if `unread` is the exact number, False if `unread` is a lower bound."""
    entries_read: int | None = None
    """Number of entries that were ever delivered to the group, or None on a server before Redis 7.0, which introduced
    this counter."""
    last_delivered_id: str | None = None
    """Id of the last delivered entry. A changed id proves that entries have been delivered since the previous probe,
    even if no entry is waiting."""

    @property
    def total(self) -> int:
        """Lower bound of the number of entries that are left to handle."""
        return (self.unread or 0) + self.pending

    @property
    def is_known(self) -> bool:
        return self.is_exact and self.unread is not None

    def __str__(self) -> str:
        if self.unread is None:
            return f"backlog unknown (pending {self.pending:,})"
        at_least = "" if self.is_exact else "at least "
        return f"backlog {at_least}{self.total:,} (unread {self.unread:,}, pending {self.pending:,})"


@dataclass(frozen=True)
class ScalingHistory:
    """State of one StreamConsumer between two scaling decisions. Times are in seconds of a monotonic clock."""

    needed: tuple[tuple[float, int], ...] = ()
    """The time and the required number of pods of each recent decision. Decisions that are older than both
    stabilization windows are dropped."""
    changes: tuple[tuple[float, int], ...] = ()
    """The time and the size of each recent change of the number of pods. Changes that are older than MAX_PERIOD_SECONDS
    are dropped."""
    last_busy_seconds: float | None = None
    """Time of the last probe that found work, or None before the first probe."""
    unreachable_since_seconds: float | None = None
    """Start of the current outage: the time of the first probe to which Redis did not reply. The value is None if Redis
    replied to the last probe."""
    last_delivered_id: str | None = None
    """Id of the last entry that was delivered to the group, as read by the last probe that found work."""
    throughput: Throughput = field(default_factory=Throughput)


@dataclass(frozen=True)
class Decision:
    """Number of pods, and the reason for this number."""

    replicas: int
    reason: ScalingReason
    message: str


def decide(
    rules: Autoscaling,
    backlog: Backlog | None,
    current: int,
    history: ScalingHistory,
    now_seconds: float,
    *,
    secrets_problem: str = "",
) -> tuple[Decision, ScalingHistory]:
    """Compute the number of pods. Returns the decision, and the history for the next decision.

    `backlog` is None in two cases: Redis did not reply, or the operator is not allowed to read the Secrets with the
    Redis credentials. `secrets_problem` explains the missing permission to read the Secrets, and is empty if the
    operator has the permission. `current` is the desired number of pods before this decision."""
    if backlog is None:
        return _decide_without_data(rules, current, history, now_seconds, secrets_problem)
    if history.last_busy_seconds is None:  # after a restart of the operator, wait for the full windows
        history = replace(history, last_busy_seconds=now_seconds, needed=((now_seconds, current),))
    if backlog.total > 0 or not backlog.is_known or backlog.last_delivered_id != history.last_delivered_id:
        history = replace(history, last_busy_seconds=now_seconds, last_delivered_id=backlog.last_delivered_id)
    history = replace(
        history, unreachable_since_seconds=None, throughput=_updated_throughput(history, backlog, current, now_seconds)
    )
    required, reason = _required_replicas(rules, backlog, current, history.throughput)
    history = _record_required(rules, history, required, now_seconds)
    replicas, reason = _Evaluation(rules, backlog, current, history, now_seconds).apply_bounds(required, reason)
    decision = Decision(replicas, reason, explain(rules, str(backlog), (current, replicas), reason, history.throughput))
    return decision, _record_change(history, replicas - current, now_seconds)


def _updated_throughput(history: ScalingHistory, backlog: Backlog, current: int, now_seconds: float) -> Throughput:
    scaled_up_at = max((at for at, change in history.changes if change > 0), default=-math.inf)
    if backlog.unread is None or backlog.entries_read is None or not backlog.is_exact:
        return history.throughput.with_sample(None, scaled_up_at)
    return history.throughput.with_sample(
        Sample(now_seconds, backlog.entries_read, backlog.unread, backlog.pending, current), scaled_up_at
    )


def _decide_without_data(
    rules: Autoscaling, current: int, history: ScalingHistory, now_seconds: float, secrets_problem: str
) -> tuple[Decision, ScalingHistory]:
    since = now_seconds if history.unreachable_since_seconds is None else history.unreachable_since_seconds
    history = replace(
        history, unreachable_since_seconds=since, throughput=history.throughput.with_sample(None, now_seconds)
    )
    # Before the first successful probe, the backlog is unknown, so at least one pod must run. At least one pod must
    # also run if Secrets are not readable, because the operator then cannot detect new entries.
    may_be_zero = history.last_busy_seconds is not None and not secrets_problem
    floor = rules.min_replicas if may_be_zero else max(1, rules.min_replicas)
    replicas, reason = max(current, floor), ScalingReason.BACKLOG_UNKNOWN
    fallback = rules.fallback
    if fallback and now_seconds - since >= fallback.after.total_seconds() and fallback.replicas > replicas:
        replicas, reason = min(fallback.replicas, max(rules.max_replicas, current)), ScalingReason.FALLBACK
    if secrets_problem:
        reason = ScalingReason.SECRETS_NOT_READABLE
    message = explain(rules, secrets_problem or "Redis does not reply", (current, replicas), reason)
    decision = Decision(replicas, reason, message)
    return decision, _record_change(history, replicas - current, now_seconds)


def _required_replicas(
    rules: Autoscaling, backlog: Backlog, current: int, throughput: Throughput
) -> tuple[int, ScalingReason]:
    """Compute the number of pods that the backlog requires, before bounds, stabilization windows and scaling policies
    are applied."""
    total = backlog.total
    if current == 0 and backlog.is_known and backlog.pending == 0 and total <= rules.activation.backlog:
        return 0, ScalingReason.BELOW_ACTIVATION if total else ScalingReason.NOTHING_TO_DO
    by_backlog = _replicas_for_backlog(rules, total, current, throughput)
    by_arrivals = throughput.min_pods(current) or 0
    if by_arrivals > max(1, by_backlog):  # only the backlog decides between zero pods and one pod
        return by_arrivals, ScalingReason.ARRIVALS
    if total == 0 and backlog.is_known:
        return 0, ScalingReason.NOTHING_TO_DO
    return max(1, by_backlog), ScalingReason.BACKLOG


def _replicas_for_backlog(rules: Autoscaling, total: int, current: int, throughput: Throughput) -> int:
    """Compute the number of pods for a backlog. The target is either the backlog per pod or `drainTime`. With
    `drainTime`, the number also depends on the arrival rate."""
    target = rules.target
    if target.drain_time is None:
        return math.ceil(total / target.backlog_share)
    if throughput.per_pod_rate is None:
        return current
    drain_rate = total / target.drain_time.total_seconds()
    return math.ceil(((throughput.arrival_rate or 0.0) + drain_rate) / throughput.per_pod_rate) if total else 0


@dataclass(frozen=True)
class _Evaluation:
    """Inputs of one decision, and methods that limit the required number of pods."""

    rules: Autoscaling
    backlog: Backlog
    current: int
    history: ScalingHistory
    now_seconds: float

    def apply_bounds(self, required: int, reason: ScalingReason) -> tuple[int, ScalingReason]:
        """Apply the bounds, stabilization windows and scaling policies to the required number of pods. Returns the
        resulting number and its reason. The returned reason is the last rule that changed the number, or `reason` if no
        rule changed the number."""
        rules = self.rules
        replicas = required
        if replicas > rules.max_replicas:
            replicas, reason = rules.max_replicas, ScalingReason.LIMITED_BY_MAX
        if replicas < rules.min_replicas:
            replicas, reason = rules.min_replicas, ScalingReason.LIMITED_BY_MIN
        if replicas > self.current:
            return self._scale_up(replicas, reason)
        if replicas < self.current:
            return self._scale_down(replicas, reason)
        return replicas, reason

    def _scale_up(self, replicas: int, reason: ScalingReason) -> tuple[int, ScalingReason]:
        rules, current = self.rules.scale_up, self.current
        window = rules.stabilization_window
        lowest = min(_within(self.history.needed, window, self.now_seconds), default=replicas)
        if window and current > 0 and lowest < replicas:  # scaling from zero never waits for the window
            replicas, reason = max(current, lowest, self.rules.min_replicas), ScalingReason.STABILIZING
        limit = self._policy_limit(rules.policies, grows=True)
        floor = max(1, self.rules.min_replicas)
        if limit is not None and max(current + limit, floor) < replicas:
            replicas, reason = max(current + limit, floor), ScalingReason.LIMITED_BY_POLICY
        return replicas, reason

    def _scale_down(self, replicas: int, reason: ScalingReason) -> tuple[int, ScalingReason]:
        rules, ceiling = self.rules.scale_down, min(self.current, self.rules.max_replicas)
        if not self.backlog.is_known and replicas < ceiling:
            replicas, reason = ceiling, ScalingReason.BACKLOG_UNKNOWN
        highest = max(_within(self.history.needed, rules.stabilization_window, self.now_seconds))
        if min(highest, ceiling) > replicas:
            replicas, reason = min(highest, ceiling), ScalingReason.STABILIZING
        if replicas == 0 and self._idle_seconds < self.rules.cooldown.total_seconds():
            replicas, reason = 1, ScalingReason.COOLING_DOWN
        limit = self._policy_limit(rules.policies, grows=False)
        if limit is not None and self.current - limit > replicas:
            replicas, reason = self.current - limit, ScalingReason.LIMITED_BY_POLICY
        return replicas, reason

    @property
    def _idle_seconds(self) -> float:
        last_busy = self.history.last_busy_seconds
        return 0.0 if last_busy is None else self.now_seconds - last_busy

    def _policy_limit(self, policies: Sequence[ScalingPolicy], *, grows: bool) -> int | None:
        return _max_change(policies, self.current, self.history, self.now_seconds, grows=grows)


def _max_change(
    policies: Sequence[ScalingPolicy], current: int, history: ScalingHistory, now_seconds: float, *, grows: bool
) -> int | None:
    """Return the maximum number of pods that the policies allow to be added or removed now. Returns None if there are
    no policies.

    If there are several policies, the policy that allows the largest change applies."""
    remaining = []
    for policy in policies:
        changes = [change for change in _within(history.changes, policy.period, now_seconds) if (change > 0) == grows]
        at_period_start = current - sum(changes)
        allowed = policy.value if policy.type == "Pods" else math.ceil(at_period_start * policy.value / 100)
        remaining.append(max(0, allowed - abs(sum(changes))))
    return max(remaining, default=None)


def _within(entries: Sequence[tuple[float, int]], window: timedelta, now_seconds: float) -> list[int]:
    return [value for at, value in entries if now_seconds - at <= window.total_seconds()]


def _record_required(rules: Autoscaling, history: ScalingHistory, required: int, now_seconds: float) -> ScalingHistory:
    window = max(rules.scale_up.stabilization_window, rules.scale_down.stabilization_window).total_seconds()
    return replace(history, needed=_recent((*history.needed, (now_seconds, required)), window, now_seconds))


def _record_change(history: ScalingHistory, change: int, now_seconds: float) -> ScalingHistory:
    if change == 0:
        return history
    return replace(history, changes=_recent((*history.changes, (now_seconds, change)), MAX_PERIOD_SECONDS, now_seconds))


def _recent(
    entries: tuple[tuple[float, int], ...], seconds: float, now_seconds: float
) -> tuple[tuple[float, int], ...]:
    return tuple(each for each in entries if now_seconds - each[0] <= seconds)
