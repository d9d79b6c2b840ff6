"""How many pods: from what was seen of the stream to a number and the reason for it. Pure.

Two rules stand above all others. What is unknown is not zero: without the whole picture the number may grow and never
shrinks. And there is no way to zero while anything is pending or unread: a pending entry that nobody handles would stay
where it is for as long as there are no pods.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from streamconsumer.model.autoscaling import Autoscaling, ScalingPolicy
from streamconsumer.model.status import ScalingReason as Why


@dataclass(frozen=True)
class Backlog:
    """What a look found. Entries."""

    unread: int | None
    """Not given to the group yet; None: not known."""
    pending: int
    """Given and not acknowledged."""
    exact: bool = True
    """Whether `unread` is the number, or at least so many."""

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
    if seen.total > 0 or not seen.known:
        memory = replace(memory, busy_seconds=now_seconds)
    memory = replace(memory, unseen_since_seconds=None)
    need, why = _need(rules, seen, current)
    memory = _noted(rules, memory, need, now_seconds)
    number, why = _Case(rules, seen, current, memory, now_seconds).bounded(need, why)
    decision = Decision(number, why, _sentence(rules, str(seen), current, number, why))
    return decision, _changed(memory, number - current, now_seconds)


def _unseen(rules: Autoscaling, current: int, memory: Memory, now_seconds: float) -> tuple[Decision, Memory]:
    since = now_seconds if memory.unseen_since_seconds is None else memory.unseen_since_seconds
    memory = replace(memory, unseen_since_seconds=since)
    least = rules.min_replicas if memory.busy_seconds is not None else max(1, rules.min_replicas)
    number, why = max(current, least), Why.BACKLOG_UNKNOWN  # where nobody has ever seen that there is nothing: a pod
    fallback = rules.fallback
    if fallback and now_seconds - since >= fallback.after.total_seconds() and fallback.replicas > number:
        number, why = min(fallback.replicas, max(rules.max_replicas, current)), Why.FALLBACK
    decision = Decision(number, why, _sentence(rules, "Redis does not answer", current, number, why))
    return decision, _changed(memory, number - current, now_seconds)


def _need(rules: Autoscaling, seen: Backlog, current: int) -> tuple[int, Why]:
    """What the backlog alone asks for."""
    total = seen.total
    if current == 0 and seen.known and seen.pending == 0 and total <= rules.activation.backlog:
        return 0, Why.BELOW_ACTIVATION if total else Why.NOTHING_TO_DO
    if total == 0 and seen.known:
        return 0, Why.NOTHING_TO_DO
    return max(1, math.ceil(total / rules.target.backlog_per_replica)), Why.BACKLOG


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


_WORDS: dict[Why, Callable[[Autoscaling], str]] = {
    Why.BACKLOG: lambda _: "",
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


def _sentence(rules: Autoscaling, found: str, current: int, number: int, why: Why) -> str:
    change = f"{current} → {number}" if number != current else f"stays {number}"
    target = f"target {rules.target.backlog_per_replica:,} a replica"
    return ", ".join(part for part in (f"{change}: {found}", target, _WORDS[why](rules)) if part)
