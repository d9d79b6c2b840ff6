"""When a stream is no longer healthy though its pods run: what one look cannot tell, and two can. Pure but for what it
remembers."""

from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.model.status import Fact, StreamReason
from streamconsumer.operator.redis_monitor.probe import Sight

GROWING_FOR = timedelta(minutes=10)
"""So long after the last new dead letter a stream counts as degraded."""

STUCK_AFTER = timedelta(minutes=15)
"""An entry that has been the oldest pending one for so long, and does not just wait for another try, is stuck: its
handler hangs, or nobody takes it over."""


@dataclass
class Judgement:
    """Of one StreamConsumer, from look to look."""

    dead_letters: int | None = None
    grew_at_seconds: float = float("-inf")
    oldest: str | None = None
    since_seconds: float = 0.0

    def degraded(self, seen: Sight, now_seconds: float) -> Fact:
        """The condition, by this look and those before. A look that saw nothing changes nothing."""
        if seen.figures is not None:
            self._remember(seen, now_seconds)
        if now_seconds - self.grew_at_seconds < GROWING_FOR.total_seconds():
            minutes = GROWING_FOR // timedelta(minutes=1)
            command = "kubectl streamconsumer dead-letters list --name NAME"
            message = f"Dead letters came within the last {minutes} minutes; `{command}` shows them."
            return _fact("True", StreamReason.DEAD_LETTERS_GROWING, message)
        if self.oldest and now_seconds - self.since_seconds >= STUCK_AFTER.total_seconds():
            minutes = STUCK_AFTER // timedelta(minutes=1)
            message = (
                f"Entry {self.oldest} has been the oldest pending one for {minutes} minutes; is its handler stuck?"
            )
            return _fact("True", StreamReason.PENDING_STUCK, message)
        if seen.figures is None:
            return seen.group.model_copy(update={"type": "Degraded", "status": "Unknown"})
        return _fact("False", StreamReason.HEALTHY)

    def _remember(self, seen: Sight, now_seconds: float) -> None:
        figures = seen.figures
        if figures is None or figures.pending is None:
            return
        count = figures.dead_letters
        if count is not None and self.dead_letters is not None and count > self.dead_letters:
            self.grew_at_seconds = now_seconds
        self.dead_letters = count
        oldest = seen.oldest if seen.held else None
        if oldest != self.oldest:
            self.oldest, self.since_seconds = oldest, now_seconds


def _fact(status: str, reason: StreamReason, message: str = "") -> Fact:
    return Fact.model_validate({"type": "Degraded", "status": status, "reason": reason, "message": message})
