"""When Redis fails the loop: what is said of it, and how long the loop waits."""

import logging
import random

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.health import Health
from streamconsumer.processor.metrics import Metrics
from streamconsumer.redis_client.errors_table import classify_error

log = logging.getLogger(__name__)

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.05, 5.0
"""Bounds of the pause after a failure: it doubles with each failure in a row."""


class ReconnectBackoff:
    """Counts faults in a row."""

    def __init__(self, stream: str, group: str, metrics: Metrics, health: Health) -> None:
        self._stream, self._metrics, self._health = stream, metrics, health
        self._log_context = f"stream {stream!r}, group {group!r}"
        self.consecutive_failures = 0

    def record_failure(self, error: Exception) -> float:
        """Say what happened. Returns the seconds to pause: at random below a bound that doubles, so that pods do not
        march in step."""
        self._metrics.redis_errors += 1
        self.consecutive_failures += 1
        found = classify_error(error, self._log_context)
        self._health.mark_not_ready(found.message)
        if self.consecutive_failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th … in a row
            level = logging.ERROR if isinstance(error, InvalidSettings) else logging.WARNING
            log.log(level, found.message, extra={"code": found.code, "in_a_row": self.consecutive_failures})
        bound: float = min(MIN_PAUSE_SECONDS * 2 ** min(self.consecutive_failures, 20), MAX_PAUSE_SECONDS)
        return bound * random.uniform(0.5, 1)  # noqa: S311 - spreads pods, guards nothing

    def record_success(self) -> None:
        """Redis answers."""
        if self.consecutive_failures:
            log.info("reading again", extra={"stream": self._stream, "faults": self.consecutive_failures})
        self.consecutive_failures = 0
