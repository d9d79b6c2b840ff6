"""Reconnect backoff: logs Redis errors in the consume loop, and computes the pause after each error."""

import logging

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.health import Health
from streamconsumer.processor.metrics import Metrics
from streamconsumer.processor.runtime import Runtime
from streamconsumer.redis_client.errors_table import classify_error

log = logging.getLogger(__name__)

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.05, 5.0
"""Minimum and maximum pause after a failure. The pause doubles with each consecutive failure."""


class ReconnectBackoff:
    """Counts consecutive failures of the consume loop, and computes the pauses."""

    def __init__(self, stream: str, group: str, metrics: Metrics, health: Health, runtime: Runtime) -> None:
        self._stream, self._metrics, self._health = stream, metrics, health
        self._log_context = f"stream {stream!r}, group {group!r}"
        self._random = runtime.random
        self.consecutive_failures = 0

    def record_failure(self, error: Exception) -> float:
        """Log an error and mark the pod as not ready. Returns the seconds to pause.

        The pause is a random duration between a bound and half of that bound, so that pods do not retry simultaneously.
        The bound doubles with each consecutive failure. Only the 1st, 2nd, 4th, 8th … failure is logged."""
        self._metrics.redis_errors += 1
        self.consecutive_failures += 1
        error_info = classify_error(error, self._log_context)
        self._health.mark_not_ready(error_info.message)
        if self.consecutive_failures.bit_count() == 1:
            level = logging.ERROR if isinstance(error, InvalidSettings) else logging.WARNING
            log_fields = {"code": error_info.code, "consecutive_failures": self.consecutive_failures}
            log.log(level, error_info.message, extra=log_fields)
        bound: float = min(MIN_PAUSE_SECONDS * 2 ** min(self.consecutive_failures, 20), MAX_PAUSE_SECONDS)
        return bound * self._random.uniform(0.5, 1)

    def record_success(self) -> None:
        """Reset the backoff after a successful read."""
        if self.consecutive_failures:
            log_fields = {"stream": self._stream, "consecutive_failures": self.consecutive_failures}
            log.info("Redis recovered; reading resumed", extra=log_fields)
        self.consecutive_failures = 0
