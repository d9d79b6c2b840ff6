"""Simulation of one stream, one group and its pods, second by second.

The processor is the same for all scalers: a stopping pod drains and releases unstarted entries, and other pods claim
its pending entries.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.simulation.scalers import TARGET, Scaler
from benchmarks.simulation.traffic import Message, Traffic

START_SECONDS = 2
"""Time from the request for a pod until it reads."""
EXTRA_SECONDS = 1800
BATCH = 10
BASE_DELAY_SECONDS, MAX_DELAY_SECONDS = 1.0, 300.0
FLAP_SECONDS = 300
"""A change of direction within this time is counted as a flap."""


@dataclass
class Pod:
    """Pod with one worker slot."""

    reads_at: int
    ends_at: int | None = None
    """End of the grace period. None if the pod is not stopping."""
    buffered: deque[Message] = field(default_factory=deque)
    running: Message | None = None

    @property
    def pending(self) -> int:
        return len(self.buffered) + (self.running is not None)


@dataclass
class Outcome:
    """Result of a simulation."""

    over_target_seconds: int = 0
    """Seconds in which the backlog exceeded the target of all reading pods. Without such pods, any entry exceeds it."""
    replica_seconds: int = 0
    flaps: int = 0
    interrupted: int = 0
    """Attempts interrupted by the end of a pod."""
    unfinished: int = 0
    waits: list[int] = field(default_factory=list)
    """Seconds from XADD to the acknowledgement or dead letter of each finished entry."""


@dataclass
class ClusterModel:
    """Cluster with one stream, its group and its pods."""

    traffic: Traffic
    scaler: Scaler
    pods: list[Pod] = field(default_factory=list)
    added: int = 0
    unread: deque[Message] = field(default_factory=deque)
    returned: deque[Message] = field(default_factory=deque)
    """Pending entries without a consumer. The next pod with a free slot claims them."""
    waiting: list[tuple[float, Message]] = field(default_factory=list)
    """Pending entries that wait for a retry, with the time at which they are due."""
    outcome: Outcome = field(default_factory=Outcome)
    _rng: random.Random = field(default_factory=lambda: random.Random(1))
    _last_change: tuple[int, int] = (-(10**9), 0)

    def run(self) -> Outcome:
        """Run the traffic pattern and another half hour for the remaining entries."""
        arrivals: Iterator[list[Message]] = self.traffic.arrivals()
        for now in range(self.traffic.seconds + EXTRA_SECONDS):
            new = next(arrivals, [])
            self.unread.extend(new)
            self.added += len(new)
            self._release_due(now)
            for pod in self.pods:
                self._work(pod, now)
            self._finish_draining(now)
            self._scale(now)
            self._record_second()
        self.outcome.unfinished = len(self.unread) + self._pending
        return self.outcome

    @property
    def _pending(self) -> int:
        return sum(pod.pending for pod in self.pods) + len(self.returned) + len(self.waiting)

    def _release_due(self, now: int) -> None:
        ready = [message for due, message in self.waiting if due <= now]
        if ready:
            self.waiting = [(due, message) for due, message in self.waiting if due > now]
            self.returned.extend(ready)

    def _work(self, pod: Pod, now: int) -> None:
        """Simulate one second of a pod."""
        left = 1.0 if now >= pod.reads_at else 0.0
        while left > 0 and (message := pod.running or self._next(pod)):
            if pod.running is None:
                pod.running, message.left_seconds = message, message.work_seconds
                message.attempts += 1
            worked = min(left, message.left_seconds)
            message.left_seconds -= worked
            left -= worked
            if message.left_seconds <= 1e-9:
                pod.running = None
                self._finish_attempt(message, now)

    def _next(self, pod: Pod) -> Message | None:
        if pod.ends_at is not None:
            return None
        source = self.returned or self.unread
        while not pod.buffered and source:
            pod.buffered.extend(source.popleft() for _ in range(min(BATCH, len(source))))
        return pod.buffered.popleft() if pod.buffered else None

    def _finish_attempt(self, message: Message, now: int) -> None:
        if not message.is_poison or message.attempts >= self.traffic.max_deliveries:
            self.outcome.waits.append(now - message.added)
            return
        max_delay = min(MAX_DELAY_SECONDS, BASE_DELAY_SECONDS * 2 ** (message.attempts - 1))
        self.waiting.append((now + self._rng.uniform(0, max_delay), message))

    def _finish_draining(self, now: int) -> None:
        """Remove pods that have drained or whose grace period is over."""
        for pod in [pod for pod in self.pods if pod.ends_at is not None]:
            if pod.running and pod.ends_at is not None and now >= pod.ends_at:
                self.outcome.interrupted += 1
                self.returned.append(pod.running)
                pod.running = None
            if pod.running is None:
                self.pods.remove(pod)

    def _scale(self, now: int) -> None:
        staying = [pod for pod in self.pods if pod.ends_at is None]
        current = len(staying)
        desired = self.scaler.desired_replicas(
            now, self.added - len(self.unread), len(self.unread), self._pending, current
        )
        if desired == current:
            return
        self._count_flap(now, desired - current)
        self.pods.extend(Pod(now + START_SECONDS) for _ in range(desired - current))
        newest_first = staying[::-1]
        deletion_order = (
            sorted(newest_first, key=lambda pod: pod.pending) if self.scaler.deletes_idle_first else newest_first
        )
        for pod in deletion_order[: max(0, current - desired)]:
            pod.ends_at = now + self.traffic.drain_seconds
            self.returned.extendleft(reversed(pod.buffered))
            pod.buffered.clear()

    def _count_flap(self, now: int, change: int) -> None:
        changed_at, last_change = self._last_change
        if change * last_change < 0 and now - changed_at < FLAP_SECONDS:
            self.outcome.flaps += 1
        self._last_change = now, change

    def _record_second(self) -> None:
        reading = sum(pod.ends_at is None for pod in self.pods)
        self.outcome.replica_seconds += len(self.pods)
        self.outcome.over_target_seconds += len(self.unread) + self._pending > TARGET * reading
