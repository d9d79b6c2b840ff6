"""Scalers of the simulation: StreamConsumer's algorithm, and KEDA with an HPA on the same stream."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.operator.autoscaling.algorithm import Backlog, ScalingHistory, decide
from streamconsumer.operator.settings import OperatorSettings

TARGET, MAX_REPLICAS = 100, 10
"""Entries a pod, and pods at most: the same for all."""


class Scaler(Protocol):
    """Scaler that is called every second and decides at its own interval."""

    name: str
    deletes_idle_first: bool
    """Whether idle pods are the first to go."""

    def desired_replicas(self, now: int, entries_read: int, unread: int, pending: int, current: int) -> int:
        """So many pods from now on."""
        ...


def _rules(target: dict[str, Any]) -> Autoscaling:
    return Autoscaling.model_validate({"maxReplicas": MAX_REPLICAS, "target": target})


@dataclass
class OurScaler:
    """`decide` as the operator calls it, at the defaults: on its interval, and at once when an entry wakes it."""

    name: str = "StreamConsumer"
    deletes_idle_first: bool = True
    rules: Autoscaling = field(default_factory=lambda: _rules({"backlogPerReplica": TARGET}))
    interval_seconds: int = int(OperatorSettings().stream_interval.total_seconds())
    _history: ScalingHistory = field(default_factory=ScalingHistory)

    def desired_replicas(self, now: int, entries_read: int, unread: int, pending: int, current: int) -> int:
        if now % self.interval_seconds and not (current == 0 and unread):
            return current
        seen = Backlog(unread, pending, entries_read=entries_read, last_delivered_id=str(entries_read))
        decision, self._history = decide(self.rules, seen, current, self._history, float(now))
        return decision.replicas


@dataclass
class KedaScaler:
    """KEDA's redis-streams scaler over an HPA, from KEDA 2.21 and Kubernetes 1.37 as documented: KEDA goes from zero to
    one and back, the HPA does the rest by the average of one metric. Here the lag: what is pending never grows beyond
    what the pods hold, and wakes nobody at zero."""

    name: str
    polling_seconds: int = 30
    cooldown_seconds: int = 300
    stabilization_seconds: int = 300
    deletes_idle_first: bool = False
    _active_seconds: int = -(10**9)
    _needed: deque[tuple[int, int]] = field(default_factory=deque)

    def desired_replicas(self, now: int, entries_read: int, unread: int, pending: int, current: int) -> int:  # noqa: ARG002 - it does not look at these
        if now % self.polling_seconds == 0:
            if unread > 0:
                self._active_seconds = now
                current = max(current, 1)
            elif now - self._active_seconds >= self.cooldown_seconds:
                current = 0
        return self._hpa_replicas(now, unread, current) if current and now % HPA_SECONDS == 0 else current

    def _hpa_replicas(self, now: int, lag: int, current: int) -> int:
        need = math.ceil(lag / TARGET)
        if abs(lag / (TARGET * current) - 1) <= HPA_TOLERANCE:
            need = current
        need = min(max(need, 1), MAX_REPLICAS)
        self._needed.append((now, need))
        while now - self._needed[0][0] > self.stabilization_seconds:
            self._needed.popleft()
        if need < current:
            return min(current, max(each for _, each in self._needed))
        return min(need, max(2 * current, current + 4))


HPA_SECONDS, HPA_TOLERANCE = 15, 0.1
"""Interval of the HPA, and the relative difference that it ignores."""


def all_scalers() -> list[Scaler]:
    """Anew: they remember."""
    return [
        OurScaler(),
        OurScaler("StreamConsumer, drainTime 30s", rules=_rules({"drainTime": "30s"})),
        KedaScaler("KEDA, lagCount"),
        KedaScaler(
            "KEDA, lagCount, with the intervals of StreamConsumer", polling_seconds=15, stabilization_seconds=60
        ),
    ]
