"""Memory that large entries in flight occupy. While this memory exceeds a limit, the processor reads no further
entries.

Only redelivered entries and entries from large replies are measured, so that ordinary messages take no additional time.
"""

from collections.abc import Collection, Iterable
from sys import getsizeof

from streamconsumer.processor.message import Entry, TextEntry

MIN_MEASURED_BYTES = 16 * 1024
"""Minimum memory of an entry that is counted. Smaller entries are not counted, because other limits apply to their
number."""

MAX_TEXT_FACTOR = 4
"""Maximum number of bytes that a decoded text occupies for each byte of its UTF-8 encoding."""

TEXT_BYTES = 60
"""Memory of a text in addition to its characters, including the reference to the text."""

DICT_BYTES = 40
"""Memory of a name or a value in the dict for the handler."""


class HeldMemory:
    """Large entries in the in-flight table, and the memory that they occupy."""

    def __init__(self, max_bytes: int | None) -> None:
        """`max_bytes` is the limit. None if there is no limit."""
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Count the large entries among entries that were just added to the table."""
        sizes = ((entry.message_id, memory_bytes(entry)) for entry in entries)
        self._sizes.update((message_id, size) for message_id, size in sizes if size >= MIN_MEASURED_BYTES)

    def is_full(self, in_flight_ids: Collection[str]) -> bool:
        """Return whether the large entries among `in_flight_ids` occupy more memory than the limit."""
        if not self._sizes or self._max_bytes is None:
            return False
        self._sizes = {message_id: size for message_id, size in self._sizes.items() if message_id in in_flight_ids}
        return sum(self._sizes.values()) >= self._max_bytes


def memory_bytes(entry: Entry) -> int:
    """Return the memory in bytes that an entry occupies while it is handled.

    A redelivered entry consists of bytes. When its handler starts, the decoded texts occupy memory in addition to the
    bytes."""
    if isinstance(entry, TextEntry):
        return sum(map(getsizeof, entry.texts)) + DICT_BYTES * len(entry.texts)
    texts = sum(len(part) * (1 if part.isascii() else MAX_TEXT_FACTOR) for part in entry.fields)
    return sum(map(getsizeof, entry.fields)) + texts + (DICT_BYTES + TEXT_BYTES) * len(entry.fields)
