"""Detection of a server or a proxy that ignores BLOCK, as some managed services do.

Each read from a server that ignores BLOCK returns immediately. Without a pause, an idle consumer would send hundreds of
reads per second.
"""

import asyncio
import logging
from datetime import timedelta
from typing import Any

MAX_EARLY_READS = 10
"""Number of consecutive early reads after which the server counts as ignoring BLOCK. Fewer early reads prove nothing,
because CLIENT UNBLOCK also ends a read early."""

EARLY_SHARE = 0.9
"""An empty read counts as early if it ends before this share of the BLOCK duration has passed."""

log = logging.getLogger(__name__)


class EarlyReads:
    """Counts consecutive empty reads that end before the BLOCK duration has passed."""

    def __init__(self, block: timedelta) -> None:
        self._early_seconds = EARLY_SHARE * block.total_seconds()
        self._count = 0

    def record(self, reply: Any, sent_at: float) -> bool:
        """Record the reply to a read. Returns True if the read was early. `sent_at` is the time at which the read was
        sent, by the clock of the event loop."""
        is_early = not reply and asyncio.get_running_loop().time() - sent_at < self._early_seconds
        self._count = self._count + 1 if is_early else 0
        if self._count == MAX_EARLY_READS:
            log.warning("the Redis server or a proxy ignores BLOCK; polling at intervals instead")
        return is_early

    @property
    def is_blocking(self) -> bool:
        """False if the server ignores BLOCK."""
        return self._count < MAX_EARLY_READS
