"""Prefetch limit: the entries of one read if handlers finish them within `MAX_BATCH_SECONDS`, else none."""

from streamconsumer.processor.metrics import Metrics

MAX_BATCH_SECONDS = 0.05
"""Maximum handling time of one read's entries for prefetching. Entries that one pod buffers are not available to its
peers."""


class Prefetch:
    """Computes the limit from the handler durations since the previous call."""

    def __init__(self, metrics: Metrics, *, batch_count: int, calls_per_slot: float) -> None:
        self._metrics, self._batch_count = metrics, batch_count
        self._calls_per_slot = calls_per_slot
        """Number of handler calls per worker slot that the entries of one read take."""
        self._previous_totals = metrics.handler_calls, metrics.duration_sum_seconds
        self._limit = 0

    def limit(self) -> int:
        """Return the current limit. Unchanged if no handler has ended since the previous call."""
        count, seconds = self._metrics.handler_calls, self._metrics.duration_sum_seconds
        count_before, seconds_before = self._previous_totals
        if count != count_before:
            self._previous_totals = count, seconds
            mean_seconds = (seconds - seconds_before) / (count - count_before)
            self._limit = self._batch_count if mean_seconds * self._calls_per_slot < MAX_BATCH_SECONDS else 0
        return self._limit
