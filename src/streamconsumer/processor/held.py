"""Entries that are here and may not begin yet: they stand behind another of their ordering key, or wait to be tried
again. Counted by number and by bytes, so that a pod that holds large ones stops reading sooner."""

from streamconsumer.processor.message import Entry

MOST_HELD = 1000
MOST_HELD_BYTES = 32 * 1024 * 1024


class Held:
    """What is held just now."""

    def __init__(self) -> None:
        self._sizes: dict[Entry, int] = {}
        self.size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may be read."""
        return len(self._sizes) >= MOST_HELD or self.size_bytes >= MOST_HELD_BYTES

    def add(self, entry: Entry) -> None:
        """It may not begin yet."""
        self.discard(entry)
        self._sizes[entry] = size = entry.size_bytes()
        self.size_bytes += size

    def discard(self, entry: Entry) -> None:
        """It may, or is not here any more."""
        self.size_bytes -= self._sizes.pop(entry, 0)
