"""Scalers of the simulation: StreamConsumer's algorithm, and KEDA with an HPA on the same stream."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.operator.scaling.decide import Backlog, Memory, decide
from streamconsumer.operator.settings import OperatorSettings

TARGET, MAX = 100, 10
"""Target of entries per pod and maximum number of pods. All scalers use the same values."""


class Scaler(Protocol):
    """Scaler that is called every second and decides at its own interval."""

    name: str
    idle_first: bool
    """True if idle pods are removed first."""

    def wanted(self, now: int, read: int, unread: int, pending: int, current: int) -> int:
        """Return the desired number of pods."""
        ...


def _rules(target: dict[str, Any]) -> Autoscaling:
    return Autoscaling.model_validate({"maxReplicas": MAX, "target": target})


@dataclass
class Ours:
    """`decide` with the operator's defaults: at its interval, and immediately when an entry arrives at zero pods."""

    name: str = "StreamConsumer"
    idle_first: bool = True
    rules: Autoscaling = field(default_factory=lambda: _rules({"backlogPerReplica": TARGET}))
    interval_seconds: int = int(OperatorSettings().stream_interval.total_seconds())
    _memory: Memory = field(default_factory=Memory)

    def wanted(self, now: int, read: int, unread: int, pending: int, current: int) -> int:
        if now % self.interval_seconds and not (current == 0 and unread):
            return current
        seen = Backlog(unread, pending, read=read, position=str(read))
        decision, self._memory = decide(self.rules, seen, current, self._memory, float(now))
        return decision.replicas


@dataclass
class Keda:
    """KEDA's redis-streams scaler with an HPA, as documented for KEDA 2.21 and Kubernetes 1.37.

    KEDA scales from zero to one and back, and the HPA scales by the average of one metric. The metric is the lag.
    Pending entries are not used: their number never exceeds the capacity of the pods, and they do not scale from zero.
    """

    name: str
    polling_seconds: int = 30
    cooldown_seconds: int = 300
    stabilization_seconds: int = 300
    idle_first: bool = False
    _active: int = -(10**9)
    _needed: deque[tuple[int, int]] = field(default_factory=deque)

    def wanted(self, now: int, read: int, unread: int, pending: int, current: int) -> int:  # noqa: ARG002 - KEDA uses only the lag
        if now % self.polling_seconds == 0:
            if unread > 0:
                self._active = now
                current = max(current, 1)
            elif now - self._active >= self.cooldown_seconds:
                current = 0
        return self._hpa(now, unread, current) if current and now % HPA_SECONDS == 0 else current

    def _hpa(self, now: int, lag: int, current: int) -> int:
        need = math.ceil(lag / TARGET)
        if abs(lag / (TARGET * current) - 1) <= HPA_TOLERANCE:
            need = current
        need = min(max(need, 1), MAX)
        self._needed.append((now, need))
        while now - self._needed[0][0] > self.stabilization_seconds:
            self._needed.popleft()
        if need < current:
            return min(current, max(each for _, each in self._needed))
        return min(need, max(2 * current, current + 4))


HPA_SECONDS, HPA_TOLERANCE = 15, 0.1
"""Interval of the HPA, and the relative difference that it ignores."""


def all_of_them() -> list[Scaler]:
    """Return new scalers, because each keeps state."""
    return [
        Ours(),
        Ours("StreamConsumer, drainTime 30s", rules=_rules({"drainTime": "30s"})),
        Keda("KEDA, lagCount"),
        Keda("KEDA, lagCount, as hasty as ours", polling_seconds=15, stabilization_seconds=60),
    ]
