"""Size of the next read: the number of entries, computed from the sizes of received entries and from failed reads.

A large reply can make a read fail without an outage. This process refuses a reply above its limit, and the server or a
proxy may cut the connection (`client-output-buffer-limit`).
"""

import time
from collections.abc import Callable

from streamconsumer.processor.consumer.memory_limit import MemoryLimits

INITIAL_COUNT = 10
"""Number of entries that the first read requests. The number is doubled after each full read."""

MIN_BYTES = 16 * 1024
"""Smallest size of a read. Redis sends a reply of this size even if `client-output-buffer-limit` is smaller."""

MAX_CLAIM_BYTES = 4 * 1024 * 1024
"""Maximum size of the entries that one claim requests. Redis runs no other command while the claim script copies the
entries."""

RESTORE_SECONDS = 30.0
"""After a reply was so large that the connection was cut, reads request fewer bytes for this time."""


class ReadSize:
    """Number and total size of the entries that one read or one claim requests."""

    def __init__(self, limits: MemoryLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = limits.read_bytes, clock
        self._bytes, self._restore_at = self._max_bytes, 0.0
        self._entry_bytes = 0
        self.max_count = INITIAL_COUNT
        """Maximum number of entries that one read or one claim requests."""

    @property
    def target_bytes(self) -> int:
        """Approximate size of the entries that one read requests."""
        if self._restore_at and self._clock() > self._restore_at:
            self._bytes, self._restore_at = self._max_bytes, 0.0
        return self._bytes

    @property
    def claim_bytes(self) -> int:
        """Approximate size of the entries that one claim requests."""
        return min(self.target_bytes, MAX_CLAIM_BYTES)

    def on_received(self, entry_count: int, size_bytes: int, requested: int) -> None:
        """Adapt the number of entries to the size of received entries."""
        affordable = max(1, self.target_bytes * entry_count // max(1, size_bytes))
        self.max_count = min(affordable, max(self.max_count, min(requested, 2 * entry_count)))
        self._entry_bytes = size_bytes // entry_count

    def on_refused(self, requested: int) -> None:
        """Halve the number of entries, because the reply to a read of `requested` entries was too large."""
        self.max_count = max(1, requested // 2)

    def on_cut(self, requested: int) -> None:
        """Halve the number of entries, because the connection was lost during a read of `requested` entries.

        Redis could cut the connection again for a reply of the same size. Later reads therefore request at most half of
        that size.
        """
        self.on_refused(requested)
        if (size_bytes := requested * self._entry_bytes) > 2 * MIN_BYTES:
            self._limit(size_bytes // 2)

    def shrink(self) -> bool:
        """Reduce the size of claims to a quarter. Returns False if the size was already MIN_BYTES."""
        if self.claim_bytes <= MIN_BYTES:
            return False
        self._limit(max(MIN_BYTES, self.claim_bytes // 4))
        return True

    def shrink_to_minimum(self) -> bool:
        """Reduce the size of claims to MIN_BYTES. Returns False if the size was already MIN_BYTES."""
        if self.claim_bytes <= MIN_BYTES:
            return False
        self._limit(MIN_BYTES)
        return True

    def _limit(self, size_bytes: int) -> None:
        self._bytes, self._restore_at = min(self._bytes, size_bytes), self._clock() + RESTORE_SECONDS
