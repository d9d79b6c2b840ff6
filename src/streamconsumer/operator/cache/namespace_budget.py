"""Memory budget for the StreamConsumers of each namespace.

The author of a StreamConsumer chooses the size of its spec, up to about 1.5 MB, and the cache stores each spec. Without
a budget, the StreamConsumers of one namespace could use up the operator's memory, and so stop the operator for all
namespaces.
"""

import json
from collections import Counter

from streamconsumer.operator.cache.workqueue import Key
from streamconsumer.operator.manifests import Manifest

MAX_NAMESPACE_BYTES = 16 * 1024 * 1024
"""Maximum size of all specs and annotations of a namespace as JSON, plus OBJECT_BYTES for each StreamConsumer."""

OBJECT_BYTES = 4096
"""Size of a StreamConsumer without its spec. An ordinary spec has 1 to 3 kB, so a namespace can have about 2,500 to
3,500 ordinary StreamConsumers."""

OVER_BUDGET = (
    f"the StreamConsumers of the namespace have more than {MAX_NAMESPACE_BYTES >> 20} MiB in total, and the operator "
    "keeps no more than this in memory; reduce the size or the number of StreamConsumers, then edit this StreamConsumer"
)
"""Message for a StreamConsumer that exceeds the budget. The message asks for an edit, because the API server sends the
spec again after an edit."""


class NamespaceBudget:
    """Counts the memory that the StreamConsumers of each namespace use in the cache."""

    def __init__(self) -> None:
        self._sizes: dict[Key, int] = {}
        self._totals: Counter[str] = Counter()

    def try_reserve(self, key: Key, manifest: Manifest) -> bool:
        """Reserve memory for a StreamConsumer, and release the memory of the previous version of the StreamConsumer.
        Returns False if the spec exceeds the budget. For a spec that exceeds the budget, memory is reserved only for
        the StreamConsumer without its spec."""
        self.release(key)
        size = OBJECT_BYTES + len(json.dumps([manifest.get("spec"), manifest["metadata"].get("annotations")]))
        fits = self._totals[key[0]] + size <= MAX_NAMESPACE_BYTES
        self._sizes[key] = size if fits else OBJECT_BYTES
        self._totals[key[0]] += self._sizes[key]
        return fits

    @staticmethod
    def without_spec(manifest: Manifest) -> Manifest:
        """Return the StreamConsumer without its spec and annotations."""
        metadata = {key: value for key, value in manifest["metadata"].items() if key != "annotations"}
        return {**manifest, "metadata": metadata, "spec": {}}

    def release(self, key: Key) -> None:
        """Release the memory of a StreamConsumer that is no longer in the cache."""
        self._totals[key[0]] -= self._sizes.pop(key, 0)
        if not self._totals[key[0]]:
            del self._totals[key[0]]
