"""How many pods: from what was seen of the stream to a number and the reason for it. Pure.

Two rules stand above all others. What is unknown is not zero: without the whole picture the number may grow and never
shrinks. And there is no way to zero while anything is pending or unread: a pending entry that nobody handles would stay
where it is for as long as there are no pods.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from streamconsumer.model.autoscaling import Autoscaling, ScalingPolicy
from streamconsumer.model.status import ScalingReason as Why
from streamconsumer.operator.autoscaling.explanation import explain
from streamconsumer.operator.autoscaling.throughput import Sample, Throughput


@dataclass(frozen=True)
class Backlog:
    """What a look found. Entries."""

    unread: int | None
    """Not given to the group yet; None: not known."""
    pending: int
    """Given and not acknowledged."""
    is_exact: bool = True
    """Whether `unread` is the number, or at least so many."""
    entries_read: int | None = None
    """How many entries the group was ever given, where Redis counts them: since 7.0."""
    last_delivered_id: str | None = None
    """The id that was given last. Where it moved on there was work since the last look, however little is left."""

    @property
    def total(self) -> int:
        """At least so many."""
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
    """What has to be remembered of one StreamConsumer between two decisions. Times in seconds of one steady clock."""

    needed: tuple[tuple[float, int], ...] = ()
    """What was needed when, as far back as the longer window."""
    changes: tuple[tuple[float, int], ...] = ()
    """By how much the number was changed when, as far back as the longest period of a policy."""
    last_busy_seconds: float | None = None
    """When there was something to do last; None: nobody has looked yet."""
    unreachable_since_seconds: float | None = None
    """Since when Redis has not answered."""
    last_delivered_id: str | None = None
    """How far the group had come."""
    throughput: Throughput = field(default_factory=Throughput)


@dataclass(frozen=True)
class Decision:
    """So many pods, and why."""

    replicas: int
    reason: Why
    message: str


def decide(
    rules: Autoscaling, backlog: Backlog | None, current: int, history: ScalingHistory, now_seconds: float
) -> tuple[Decision, ScalingHistory]:
    """`seen` is None where Redis did not answer; `current` is how many pods are wanted now."""
    if backlog is None:
        return _decide_without_data(rules, current, history, now_seconds)
    if history.last_busy_seconds is None:  # a new operator knows of no work before it: it waits its whole windows
        history = replace(history, last_busy_seconds=now_seconds, needed=((now_seconds, current),))
    if backlog.total > 0 or not backlog.is_known or backlog.last_delivered_id != history.last_delivered_id:
        history = replace(history, last_busy_seconds=now_seconds, last_delivered_id=backlog.last_delivered_id)
    history = replace(
        history, unreachable_since_seconds=None, throughput=_updated_throughput(history, backlog, current, now_seconds)
    )
    need, why = _required_replicas(rules, backlog, current, history.throughput)
    history = _record_need(rules, history, need, now_seconds)
    number, why = _Evaluation(rules, backlog, current, history, now_seconds).apply_bounds(need, why)
    decision = Decision(number, why, explain(rules, str(backlog), (current, number), why, history.throughput))
    return decision, _record_change(history, number - current, now_seconds)


def _updated_throughput(history: ScalingHistory, backlog: Backlog, current: int, now_seconds: float) -> Throughput:
    grown = max((at for at, change in history.changes if change > 0), default=-math.inf)
    if backlog.unread is None or backlog.entries_read is None or not backlog.is_exact:
        return history.throughput.with_sample(None, grown)
    return history.throughput.with_sample(
        Sample(now_seconds, backlog.entries_read, backlog.unread, backlog.pending, current), grown
    )


def _decide_without_data(
    rules: Autoscaling, current: int, history: ScalingHistory, now_seconds: float
) -> tuple[Decision, ScalingHistory]:
    since = now_seconds if history.unreachable_since_seconds is None else history.unreachable_since_seconds
    history = replace(
        history, unreachable_since_seconds=since, throughput=history.throughput.with_sample(None, now_seconds)
    )
    least = rules.min_replicas if history.last_busy_seconds is not None else max(1, rules.min_replicas)
    number, why = max(current, least), Why.BACKLOG_UNKNOWN  # where nobody has ever seen that there is nothing: a pod
    fallback = rules.fallback
    if fallback and now_seconds - since >= fallback.after.total_seconds() and fallback.replicas > number:
        number, why = min(fallback.replicas, max(rules.max_replicas, current)), Why.FALLBACK
    decision = Decision(number, why, explain(rules, "Redis does not answer", (current, number), why))
    return decision, _record_change(history, number - current, now_seconds)


def _required_replicas(rules: Autoscaling, backlog: Backlog, current: int, throughput: Throughput) -> tuple[int, Why]:
    """What there is to do asks for, before anything holds it back."""
    total = backlog.total
    if current == 0 and backlog.is_known and backlog.pending == 0 and total <= rules.activation.backlog:
        return 0, Why.BELOW_ACTIVATION if total else Why.NOTHING_TO_DO
    by_backlog = _replicas_for_backlog(rules, total, current, throughput)
    keeping_up = throughput.min_pods(current) or 0
    if keeping_up > max(1, by_backlog):  # one pod is the backlog's affair: whether there is to be any
        return keeping_up, Why.ARRIVALS
    if total == 0 and backlog.is_known:
        return 0, Why.NOTHING_TO_DO
    return max(1, by_backlog), Why.BACKLOG


def _replicas_for_backlog(rules: Autoscaling, total: int, current: int, throughput: Throughput) -> int:
    """By the share of each pod, or by how soon it is to be done while more arrives."""
    target = rules.target
    if target.drain_time is None:
        return math.ceil(total / target.backlog_share)
    if throughput.per_pod_rate is None:
        return current
    in_time = total / target.drain_time.total_seconds()
    return math.ceil(((throughput.arrival_rate or 0.0) + in_time) / throughput.per_pod_rate) if total else 0


@dataclass(frozen=True)
class _Evaluation:
    """One decision on its way: what it starts from."""

    rules: Autoscaling
    backlog: Backlog
    current: int
    history: ScalingHistory
    now_seconds: float

    def apply_bounds(self, need: int, reason: Why) -> tuple[int, Why]:
        """What is needed, within everything that holds it back."""
        rules = self.rules
        number = need
        if number > rules.max_replicas:
            number, reason = rules.max_replicas, Why.LIMITED_BY_MAX
        if number < rules.min_replicas:
            number, reason = rules.min_replicas, Why.LIMITED_BY_MIN
        if number > self.current:
            return self._scale_up(number, reason)
        if number < self.current:
            return self._scale_down(number, reason)
        return number, reason

    def _scale_up(self, number: int, reason: Why) -> tuple[int, Why]:
        growing, current = self.rules.scale_up, self.current
        steady = min(_within(self.history.needed, growing.stabilization_window, self.now_seconds), default=number)
        if (
            growing.stabilization_window and current > 0 and steady < number
        ):  # whoever waits at zero has waited long enough
            number, reason = max(current, steady, self.rules.min_replicas), Why.STABILIZING
        added = self._policy_limit(growing.policies, grows=True)
        floor = max(1, self.rules.min_replicas)
        if added is not None and max(current + added, floor) < number:
            number, reason = max(current + added, floor), Why.LIMITED_BY_POLICY
        return number, reason

    def _scale_down(self, number: int, reason: Why) -> tuple[int, Why]:
        shrinking, least = self.rules.scale_down, min(self.current, self.rules.max_replicas)
        if not self.backlog.is_known and number < least:
            number, reason = least, Why.BACKLOG_UNKNOWN
        needed = max(_within(self.history.needed, shrinking.stabilization_window, self.now_seconds))
        if min(needed, least) > number:
            number, reason = min(needed, least), Why.STABILIZING
        if number == 0 and self._idle_seconds < self.rules.cooldown.total_seconds():
            number, reason = 1, Why.COOLING_DOWN
        taken = self._policy_limit(shrinking.policies, grows=False)
        if taken is not None and self.current - taken > number:
            number, reason = self.current - taken, Why.LIMITED_BY_POLICY
        return number, reason

    @property
    def _idle_seconds(self) -> float:
        busy = self.history.last_busy_seconds
        return 0.0 if busy is None else self.now_seconds - busy

    def _policy_limit(self, policies: Sequence[ScalingPolicy], *, grows: bool) -> int | None:
        return _max_change(policies, self.current, self.history, self.now_seconds, grows=grows)


def _max_change(
    policies: Sequence[ScalingPolicy], current: int, history: ScalingHistory, now_seconds: float, *, grows: bool
) -> int | None:
    """By how many more the number may change now; None: by any. The policy that allows most counts."""
    left = []
    for policy in policies:
        changes = [change for change in _within(history.changes, policy.period, now_seconds) if (change > 0) == grows]
        before = current - sum(changes)
        allowed = policy.value if policy.type == "Pods" else math.ceil(before * policy.value / 100)
        left.append(max(0, allowed - abs(sum(changes))))
    return max(left, default=None)


def _within(entries: Sequence[tuple[float, int]], window: timedelta, now_seconds: float) -> list[int]:
    return [value for at, value in entries if now_seconds - at <= window.total_seconds()]


def _record_need(rules: Autoscaling, history: ScalingHistory, need: int, now_seconds: float) -> ScalingHistory:
    longest = max(rules.scale_up.stabilization_window, rules.scale_down.stabilization_window).total_seconds()
    return replace(history, needed=_recent((*history.needed, (now_seconds, need)), longest, now_seconds))


def _record_change(history: ScalingHistory, change: int, now_seconds: float) -> ScalingHistory:
    if change == 0:
        return history
    return replace(history, changes=_recent((*history.changes, (now_seconds, change)), MAX_PERIOD_SECONDS, now_seconds))


MAX_PERIOD_SECONDS = 3600.0


def _recent(
    entries: tuple[tuple[float, int], ...], seconds: float, now_seconds: float
) -> tuple[tuple[float, int], ...]:
    return tuple(each for each in entries if now_seconds - each[0] <= seconds)
