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
from streamconsumer.operator.autoscaling.explanation import sentence
from streamconsumer.operator.autoscaling.throughput import Look, Pace


@dataclass(frozen=True)
class Backlog:
    """What a look found. Entries."""

    unread: int | None
    """Not given to the group yet; None: not known."""
    pending: int
    """Given and not acknowledged."""
    exact: bool = True
    """Whether `unread` is the number, or at least so many."""
    read: int | None = None
    """How many entries the group was ever given, where Redis counts them: since 7.0."""
    position: str | None = None
    """The id that was given last. Where it moved on there was work since the last look, however little is left."""

    @property
    def total(self) -> int:
        """At least so many."""
        return (self.unread or 0) + self.pending

    @property
    def known(self) -> bool:
        return self.exact and self.unread is not None

    def __str__(self) -> str:
        if self.unread is None:
            return f"backlog unknown (pending {self.pending:,})"
        at_least = "" if self.exact else "at least "
        return f"backlog {at_least}{self.total:,} (unread {self.unread:,}, pending {self.pending:,})"


@dataclass(frozen=True)
class Memory:
    """What has to be remembered of one StreamConsumer between two decisions. Times in seconds of one steady clock."""

    needed: tuple[tuple[float, int], ...] = ()
    """What was needed when, as far back as the longer window."""
    changes: tuple[tuple[float, int], ...] = ()
    """By how much the number was changed when, as far back as the longest period of a policy."""
    busy_seconds: float | None = None
    """When there was something to do last; None: nobody has looked yet."""
    unseen_since_seconds: float | None = None
    """Since when Redis has not answered."""
    position: str | None = None
    """How far the group had come."""
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True)
class Decision:
    """So many pods, and why."""

    replicas: int
    why: Why
    sentence: str


def decide(
    rules: Autoscaling, seen: Backlog | None, current: int, memory: Memory, now_seconds: float
) -> tuple[Decision, Memory]:
    """`seen` is None where Redis did not answer; `current` is how many pods are wanted now."""
    if seen is None:
        return _unseen(rules, current, memory, now_seconds)
    if memory.busy_seconds is None:  # a new operator knows of no work before it: it waits its whole windows
        memory = replace(memory, busy_seconds=now_seconds, needed=((now_seconds, current),))
    if seen.total > 0 or not seen.known or seen.position != memory.position:
        memory = replace(memory, busy_seconds=now_seconds, position=seen.position)
    memory = replace(memory, unseen_since_seconds=None, pace=_paced(memory, seen, current, now_seconds))
    need, why = _need(rules, seen, current, memory.pace)
    memory = _noted(rules, memory, need, now_seconds)
    number, why = _Case(rules, seen, current, memory, now_seconds).bounded(need, why)
    decision = Decision(number, why, sentence(rules, str(seen), (current, number), why, memory.pace))
    return decision, _changed(memory, number - current, now_seconds)


def _paced(memory: Memory, seen: Backlog, current: int, now_seconds: float) -> Pace:
    grown = max((at for at, change in memory.changes if change > 0), default=-math.inf)
    if seen.unread is None or seen.read is None or not seen.exact:
        return memory.pace.after(None, grown)
    return memory.pace.after(Look(now_seconds, seen.read, seen.unread, seen.pending, current), grown)


def _unseen(rules: Autoscaling, current: int, memory: Memory, now_seconds: float) -> tuple[Decision, Memory]:
    since = now_seconds if memory.unseen_since_seconds is None else memory.unseen_since_seconds
    memory = replace(memory, unseen_since_seconds=since, pace=memory.pace.after(None, now_seconds))
    least = rules.min_replicas if memory.busy_seconds is not None else max(1, rules.min_replicas)
    number, why = max(current, least), Why.BACKLOG_UNKNOWN  # where nobody has ever seen that there is nothing: a pod
    fallback = rules.fallback
    if fallback and now_seconds - since >= fallback.after.total_seconds() and fallback.replicas > number:
        number, why = min(fallback.replicas, max(rules.max_replicas, current)), Why.FALLBACK
    decision = Decision(number, why, sentence(rules, "Redis does not answer", (current, number), why))
    return decision, _changed(memory, number - current, now_seconds)


def _need(rules: Autoscaling, seen: Backlog, current: int, pace: Pace) -> tuple[int, Why]:
    """What there is to do asks for, before anything holds it back."""
    total = seen.total
    if current == 0 and seen.known and seen.pending == 0 and total <= rules.activation.backlog:
        return 0, Why.BELOW_ACTIVATION if total else Why.NOTHING_TO_DO
    by_backlog = _by_backlog(rules, total, current, pace)
    keeping_up = pace.keeping_up(current) or 0
    if keeping_up > max(1, by_backlog):  # one pod is the backlog's affair: whether there is to be any
        return keeping_up, Why.ARRIVALS
    if total == 0 and seen.known:
        return 0, Why.NOTHING_TO_DO
    return max(1, by_backlog), Why.BACKLOG


def _by_backlog(rules: Autoscaling, total: int, current: int, pace: Pace) -> int:
    """By the share of each pod, or by how soon it is to be done while more arrives."""
    target = rules.target
    if target.drain_time is None:
        return math.ceil(total / target.share)
    if pace.per_pod is None:
        return current
    in_time = total / target.drain_time.total_seconds()
    return math.ceil(((pace.arriving or 0.0) + in_time) / pace.per_pod) if total else 0


@dataclass(frozen=True)
class _Case:
    """One decision on its way: what it starts from."""

    rules: Autoscaling
    seen: Backlog
    current: int
    memory: Memory
    now_seconds: float

    def bounded(self, need: int, why: Why) -> tuple[int, Why]:
        """What is needed, within everything that holds it back."""
        rules = self.rules
        number = need
        if number > rules.max_replicas:
            number, why = rules.max_replicas, Why.LIMITED_BY_MAX
        if number < rules.min_replicas:
            number, why = rules.min_replicas, Why.LIMITED_BY_MIN
        if number > self.current:
            return self._grown(number, why)
        if number < self.current:
            return self._shrunk(number, why)
        return number, why

    def _grown(self, number: int, why: Why) -> tuple[int, Why]:
        growing, current = self.rules.scale_up, self.current
        steady = min(_within(self.memory.needed, growing.stabilization_window, self.now_seconds), default=number)
        if (
            growing.stabilization_window and current > 0 and steady < number
        ):  # whoever waits at zero has waited long enough
            number, why = max(current, steady, self.rules.min_replicas), Why.STABILIZING
        added = self._allowed(growing.policies, grows=True)
        floor = max(1, self.rules.min_replicas)
        if added is not None and max(current + added, floor) < number:
            number, why = max(current + added, floor), Why.LIMITED_BY_POLICY
        return number, why

    def _shrunk(self, number: int, why: Why) -> tuple[int, Why]:
        shrinking, least = self.rules.scale_down, min(self.current, self.rules.max_replicas)
        if not self.seen.known and number < least:
            number, why = least, Why.BACKLOG_UNKNOWN
        needed = max(_within(self.memory.needed, shrinking.stabilization_window, self.now_seconds))
        if min(needed, least) > number:
            number, why = min(needed, least), Why.STABILIZING
        if number == 0 and self._idle_seconds < self.rules.cooldown.total_seconds():
            number, why = 1, Why.COOLING_DOWN
        taken = self._allowed(shrinking.policies, grows=False)
        if taken is not None and self.current - taken > number:
            number, why = self.current - taken, Why.LIMITED_BY_POLICY
        return number, why

    @property
    def _idle_seconds(self) -> float:
        busy = self.memory.busy_seconds
        return 0.0 if busy is None else self.now_seconds - busy

    def _allowed(self, policies: Sequence[ScalingPolicy], *, grows: bool) -> int | None:
        return _limit(policies, self.current, self.memory, self.now_seconds, grows=grows)


def _limit(
    policies: Sequence[ScalingPolicy], current: int, memory: Memory, now_seconds: float, *, grows: bool
) -> int | None:
    """By how many more the number may change now; None: by any. The policy that allows most counts."""
    left = []
    for policy in policies:
        changes = [change for change in _within(memory.changes, policy.period, now_seconds) if (change > 0) == grows]
        before = current - sum(changes)
        allowed = policy.value if policy.type == "Pods" else math.ceil(before * policy.value / 100)
        left.append(max(0, allowed - abs(sum(changes))))
    return max(left, default=None)


def _within(noted: Sequence[tuple[float, int]], window: timedelta, now_seconds: float) -> list[int]:
    return [value for at, value in noted if now_seconds - at <= window.total_seconds()]


def _noted(rules: Autoscaling, memory: Memory, need: int, now_seconds: float) -> Memory:
    longest = max(rules.scale_up.stabilization_window, rules.scale_down.stabilization_window).total_seconds()
    return replace(memory, needed=_recent((*memory.needed, (now_seconds, need)), longest, now_seconds))


def _changed(memory: Memory, change: int, now_seconds: float) -> Memory:
    if change == 0:
        return memory
    return replace(
        memory, changes=_recent((*memory.changes, (now_seconds, change)), LONGEST_PERIOD_SECONDS, now_seconds)
    )


LONGEST_PERIOD_SECONDS = 3600.0


def _recent(noted: tuple[tuple[float, int], ...], seconds: float, now_seconds: float) -> tuple[tuple[float, int], ...]:
    return tuple(each for each in noted if now_seconds - each[0] <= seconds)
