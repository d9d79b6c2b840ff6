"""Prefetch limit: the number of entries in one read, or 0 if handlers take `MAX_BATCH_SECONDS` or longer for these
entries."""

from streamconsumer.processor.metrics import Metrics

MAX_BATCH_SECONDS = 0.05
"""Maximum time that handlers may take for the entries of one read. If handlers take longer, the processor does not
prefetch, because other pods cannot handle the entries that this pod has prefetched."""


class Prefetch:
    """Computes the prefetch limit from the handler durations since the previous call of `limit`."""

    def __init__(self, metrics: Metrics, *, batch_count: int, calls_per_slot: float) -> None:
        self._metrics, self._batch_count = metrics, batch_count
        self._calls_per_slot = calls_per_slot
        """A read requests enough entries for this number of handler calls in each worker slot."""
        self._previous_totals = metrics.handler_calls, metrics.duration_sum_seconds
        self._limit = 0

    def limit(self) -> int:
        """Return the prefetch limit. The limit changes only if a handler has ended since the previous call."""
        count, seconds = self._metrics.handler_calls, self._metrics.duration_sum_seconds
        count_before, seconds_before = self._previous_totals
        if count != count_before:
            self._previous_totals = count, seconds
            mean_seconds = (seconds - seconds_before) / (count - count_before)
            self._limit = self._batch_count if mean_seconds * self._calls_per_slot < MAX_BATCH_SECONDS else 0
        return self._limit
