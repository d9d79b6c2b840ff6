"""When Redis fails the loop: what is said of it, and how long the loop waits."""

import logging
import random

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.health import Health
from streamconsumer.processor.metrics import Metrics
from streamconsumer.redis_client.errors_table import fault

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0
"""Bounds of the pause after a failure: it doubles with each failure in a row."""


class Recovery:
    """Counts faults in a row."""

    def __init__(self, stream: str, group: str, metrics: Metrics, health: Health) -> None:
        self._stream, self._metrics, self._health = stream, metrics, health
        self._where = f"stream {stream!r}, group {group!r}"
        self.faults_in_a_row = 0

    def failed(self, error: Exception) -> float:
        """Say what happened. Returns the seconds to pause: at random below a bound that doubles, so that pods do not
        march in step."""
        self._metrics.faults += 1
        self.faults_in_a_row += 1
        found = fault(error, self._where)
        self._health.not_ready(found.sentence)
        if self.faults_in_a_row.bit_count() == 1:  # the 1st, 2nd, 4th, 8th … in a row
            level = logging.ERROR if isinstance(error, InvalidSettings) else logging.WARNING
            log.log(level, found.sentence, extra={"code": found.code, "in_a_row": self.faults_in_a_row})
        bound: float = min(FIRST_PAUSE_SECONDS * 2 ** min(self.faults_in_a_row, 20), LONGEST_PAUSE_SECONDS)
        return bound * random.uniform(0.5, 1)  # noqa: S311 - spreads pods, guards nothing

    def succeeded(self) -> None:
        """Redis answers."""
        if self.faults_in_a_row:
            log.info("reading again", extra={"stream": self._stream, "faults": self.faults_in_a_row})
        self.faults_in_a_row = 0
