"""Stream health: compares consecutive probes to detect that a stream is degraded although its pods are running."""

from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.model.status import ConditionState, StreamReason
from streamconsumer.operator.redis_monitor.probe import ProbeResult

GROWING_FOR = timedelta(minutes=10)
"""Time for which a stream counts as degraded after each new dead letter."""

STUCK_AFTER = timedelta(minutes=15)
"""An entry counts as stuck if it has been the oldest pending entry for this time.

If an entry is stuck, either its handler hangs, or no consumer claims the entry. If all pending entries are postponed
for a retry, no entry counts as stuck."""


@dataclass
class StreamHealth:
    """Health of one StreamConsumer's stream, updated by each probe."""

    dead_letters: int | None = None
    dead_letters_grew_seconds: float = float("-inf")
    oldest_id: str | None = None
    oldest_since_seconds: float = 0.0

    def degraded_condition(self, result: ProbeResult, now_seconds: float) -> ConditionState:
        """Return the condition Degraded, computed from this probe and from earlier probes. A failed probe does not
        change the recorded state."""
        if result.stats is not None:
            self._update(result, now_seconds)
        if now_seconds - self.dead_letters_grew_seconds < GROWING_FOR.total_seconds():
            minutes = GROWING_FOR // timedelta(minutes=1)
            command = "kubectl streamconsumer dead-letters list --name NAME"
            message = f"Messages were dead-lettered within the last {minutes} minutes; `{command}` lists them."
            return _condition("True", StreamReason.DEAD_LETTERS_GROWING, message)
        if self.oldest_id and now_seconds - self.oldest_since_seconds >= STUCK_AFTER.total_seconds():
            minutes = STUCK_AFTER // timedelta(minutes=1)
            duration = f"Entry {self.oldest_id} has been the oldest pending entry for at least {minutes} minutes"
            message = f"{duration}; check whether the handler is stuck."
            return _condition("True", StreamReason.PENDING_STUCK, message)
        if result.stats is None:
            return result.group_ready.model_copy(update={"type": "Degraded", "status": "Unknown"})
        return _condition("False", StreamReason.HEALTHY)

    def _update(self, result: ProbeResult, now_seconds: float) -> None:
        stats = result.stats
        if stats is None or stats.pending is None:
            return
        count = stats.dead_letters
        if count is not None and self.dead_letters is not None and count > self.dead_letters:
            self.dead_letters_grew_seconds = now_seconds
        self.dead_letters = count
        oldest = result.oldest_pending_id if result.owned_pending else None
        if oldest != self.oldest_id:
            self.oldest_id, self.oldest_since_seconds = oldest, now_seconds


def _condition(status: str, reason: StreamReason, message: str = "") -> ConditionState:
    return ConditionState.model_validate({"type": "Degraded", "status": status, "reason": reason, "message": message})
