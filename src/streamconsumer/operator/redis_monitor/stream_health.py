"""When a stream is no longer healthy though its pods run: what one look cannot tell, and two can. Pure but for what it
remembers."""

from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.model.status import ConditionState, StreamReason
from streamconsumer.operator.redis_monitor.probe import ProbeResult

GROWING_FOR = timedelta(minutes=10)
"""So long after the last new dead letter a stream counts as degraded."""

STUCK_AFTER = timedelta(minutes=15)
"""An entry that has been the oldest pending one for so long, and does not just wait for another try, is stuck: its
handler hangs, or nobody takes it over."""


@dataclass
class StreamHealth:
    """Of one StreamConsumer, from look to look."""

    dead_letters: int | None = None
    dead_letters_grew_seconds: float = float("-inf")
    oldest_id: str | None = None
    oldest_since_seconds: float = 0.0

    def degraded_condition(self, result: ProbeResult, now_seconds: float) -> ConditionState:
        """The condition, by this look and those before. A look that saw nothing changes nothing."""
        if result.stats is not None:
            self._update(result, now_seconds)
        if now_seconds - self.dead_letters_grew_seconds < GROWING_FOR.total_seconds():
            minutes = GROWING_FOR // timedelta(minutes=1)
            command = "kubectl streamconsumer dead-letters list --name NAME"
            message = f"Dead letters came within the last {minutes} minutes; `{command}` shows them."
            return _condition("True", StreamReason.DEAD_LETTERS_GROWING, message)
        if self.oldest_id and now_seconds - self.oldest_since_seconds >= STUCK_AFTER.total_seconds():
            minutes = STUCK_AFTER // timedelta(minutes=1)
            message = (
                f"Entry {self.oldest_id} has been the oldest pending one for {minutes} minutes; is its handler stuck?"
            )
            return _condition("True", StreamReason.PENDING_STUCK, message)
        if result.stats is None:
            return result.group_ready.model_copy(update={"type": "Degraded", "status": "Unknown"})
        return _condition("False", StreamReason.HEALTHY)

    def _update(self, result: ProbeResult, now_seconds: float) -> None:
        figures = result.stats
        if figures is None or figures.pending is None:
            return
        count = figures.dead_letters
        if count is not None and self.dead_letters is not None and count > self.dead_letters:
            self.dead_letters_grew_seconds = now_seconds
        self.dead_letters = count
        oldest = result.oldest_pending_id if result.owned_pending else None
        if oldest != self.oldest_id:
            self.oldest_id, self.oldest_since_seconds = oldest, now_seconds


def _condition(status: str, reason: StreamReason, message: str = "") -> ConditionState:
    return ConditionState.model_validate({"type": "Degraded", "status": status, "reason": reason, "message": message})
