"""How many entries may be buffered: one read's worth if it is handled in no time, else none."""

from streamconsumer.processor.metrics import Metrics

MAX_BATCH_SECONDS = 0.05
"""What a read's worth may take for the next one to be read ahead: what one pod buffers, its peers cannot have."""


class Prefetch:
    """Concludes from what handlers took since it was asked last."""

    def __init__(self, metrics: Metrics, *, batch_count: int, calls_per_slot: float) -> None:
        self._metrics, self._batch_count = metrics, batch_count
        self._calls_per_slot = calls_per_slot
        """How often as long as one call of the handler a read's worth takes."""
        self._previous_totals = metrics.handler_calls, metrics.duration_sum_seconds
        self._limit = 0

    def limit(self) -> int:
        """As it is now; as before while nothing was handled."""
        count, seconds = self._metrics.handler_calls, self._metrics.duration_sum_seconds
        count_before, seconds_before = self._previous_totals
        if count != count_before:
            self._previous_totals = count, seconds
            each = (seconds - seconds_before) / (count - count_before)
            self._limit = self._batch_count if each * self._calls_per_slot < MAX_BATCH_SECONDS else 0
        return self._limit
