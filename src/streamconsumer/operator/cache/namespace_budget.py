"""Memory budget for the cached objects of each namespace.

Users choose the size of their objects, up to about 1.5 MB each, and the number of their objects. Without a budget, the
objects of one namespace could use up the operator's memory and stop the operator for all namespaces.

The cache stores only a few fields of an object that does not fit into the budget. A reconcile then reads the whole
object from the API server. The request takes longer than a read from the cache, but the memory is free again after the
reconcile.
"""

from collections import Counter
from sys import getsizeof
from typing import Any

MAX_OBJECT_BYTES = 256 * 1024
"""Maximum size in memory of an object that the cache stores completely. An ordinary Deployment has 30 kB."""

GUARANTEED_BYTES = 2 * 1024 * 1024
"""Memory that each namespace can use, even if other namespaces use all of MAX_TOTAL_BYTES. Sufficient for about 40
ordinary StreamConsumers with their children and pods."""

MAX_NAMESPACE_BYTES = 48 * 1024 * 1024
"""Maximum memory of one namespace. Sufficient for about 800 ordinary StreamConsumers with their children and pods."""

MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""Maximum memory of all namespaces together, apart from GUARANTEED_BYTES."""


class NamespaceBudget:
    """Counts the memory that the objects of each namespace use in the cache."""

    def __init__(self) -> None:
        self._reserved: dict[str, tuple[str, int]] = {}
        """Namespace and size of each object, by uid."""
        self._totals: Counter[str] = Counter()

    def try_reserve(self, uid: str, namespace: str, size: int) -> bool:
        """Reserve `size` bytes for an object, and release the memory of its previous version. Returns False if the
        object does not fit into the budget."""
        self.release(uid)
        total = self._totals[namespace] + size
        if size > MAX_OBJECT_BYTES or total > MAX_NAMESPACE_BYTES:
            return False
        if total > GUARANTEED_BYTES and self._totals.total() + size > MAX_TOTAL_BYTES:
            return False
        self._reserved[uid] = namespace, size
        self._totals[namespace] = total
        return True

    def release(self, uid: str) -> None:
        """Release the memory of an object that is no longer in the cache."""
        namespace, size = self._reserved.pop(uid, ("", 0))
        self._totals[namespace] -= size
        if not self._totals[namespace]:
            del self._totals[namespace]


def size_of(value: Any, limit: int) -> int:
    """Return the memory, in bytes, of a value that was parsed from JSON. Stops counting above the limit."""
    size, remaining = 0, [value]
    while remaining and size <= limit:
        each = remaining.pop()
        size += getsizeof(each)
        if isinstance(each, dict):
            remaining += each.keys()
            remaining += each.values()
        elif isinstance(each, list):
            remaining += each
    return size
