"""Scalers of the simulation: StreamConsumer's algorithm, and KEDA with an HPA on the same stream."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from streamconsumer.model.autoscaling import Autoscaling
from streamconsumer.operator.autoscaling.algorithm import Backlog, ScalingHistory, decide
from streamconsumer.operator.settings import OperatorSettings

TARGET, MAX_REPLICAS = 100, 10
"""Entries per pod and maximum number of pods, the same for all scalers."""


class Scaler(Protocol):
    """Scaler that is called every second and decides at its own interval."""

    name: str
    deletes_idle_first: bool
    """True if scaling down deletes idle pods first."""

    def desired_replicas(self, now: int, entries_read: int, unread: int, pending: int, current: int) -> int:
        """Return the number of pods desired from now on."""
        ...


def _rules(target: dict[str, Any]) -> Autoscaling:
    return Autoscaling.model_validate({"maxReplicas": MAX_REPLICAS, "target": target})


@dataclass
class OurScaler:
    """StreamConsumer's algorithm at its defaults. Decides at the poll interval, and on the first entry at zero pods."""

    name: str = "StreamConsumer"
    deletes_idle_first: bool = True
    rules: Autoscaling = field(default_factory=lambda: _rules({"backlogPerReplica": TARGET}))
    interval_seconds: int = int(OperatorSettings().stream_interval.total_seconds())
    _history: ScalingHistory = field(default_factory=ScalingHistory)

    def desired_replicas(self, now: int, entries_read: int, unread: int, pending: int, current: int) -> int:
        if now % self.interval_seconds and not (current == 0 and unread):
            return current
        backlog = Backlog(unread, pending, entries_read=entries_read, last_delivered_id=str(entries_read))
        decision, self._history = decide(self.rules, backlog, current, self._history, float(now))
        return decision.replicas


@dataclass
class KedaScaler:
    """KEDA's redis-streams scaler with an HPA, as documented for KEDA 2.21 and Kubernetes 1.37.

    KEDA scales between zero and one pod. The HPA scales between one and the maximum, by the average of one metric. The
    metric is the lag, because the number of pending entries is limited by the pods and starts no pod at zero."""

    name: str
    polling_seconds: int = 30
    cooldown_seconds: int = 300
    stabilization_seconds: int = 300
    deletes_idle_first: bool = False
    _active_seconds: int = -(10**9)
    _required: deque[tuple[int, int]] = field(default_factory=deque)

    def desired_replicas(self, now: int, entries_read: int, unread: int, pending: int, current: int) -> int:  # noqa: ARG002 - KEDA uses only the lag
        if now % self.polling_seconds == 0:
            if unread > 0:
                self._active_seconds = now
                current = max(current, 1)
            elif now - self._active_seconds >= self.cooldown_seconds:
                current = 0
        return self._hpa_replicas(now, unread, current) if current and now % HPA_SECONDS == 0 else current

    def _hpa_replicas(self, now: int, lag: int, current: int) -> int:
        required = math.ceil(lag / TARGET)
        if abs(lag / (TARGET * current) - 1) <= HPA_TOLERANCE:
            required = current
        required = min(max(required, 1), MAX_REPLICAS)
        self._required.append((now, required))
        while now - self._required[0][0] > self.stabilization_seconds:
            self._required.popleft()
        if required < current:
            return min(current, max(pods for _, pods in self._required))
        return min(required, max(2 * current, current + 4))


HPA_SECONDS, HPA_TOLERANCE = 15, 0.1
"""Interval of the HPA, and the relative difference that it ignores."""


def all_scalers() -> list[Scaler]:
    """Return new scalers, because each keeps a history."""
    return [
        OurScaler(),
        OurScaler("StreamConsumer, drainTime 30s", rules=_rules({"drainTime": "30s"})),
        KedaScaler("KEDA, lagCount"),
        KedaScaler(
            "KEDA, lagCount, with the intervals of StreamConsumer", polling_seconds=15, stabilization_seconds=60
        ),
    ]
