"""Memory that large entries in flight occupy. While it exceeds a limit, the processor reads no further entries.

Only entries of large replies and redelivered entries are measured, so that ordinary messages cost nothing.
"""

from collections.abc import Collection, Iterable
from sys import getsizeof

from streamconsumer.processor.message import Entry

MIN_MEASURED_BYTES = 16 * 1024
"""Entries that occupy less memory are not counted. Their number is limited elsewhere."""

MAX_TEXT_FACTOR = 4
"""Maximum number of bytes that a byte of UTF-8 occupies in a decoded text."""

TEXT_BYTES = 60
"""Memory of a text in addition to its characters, with the reference to the text."""

DICT_BYTES = 40
"""Memory of a name or a value in the dict for the handler."""


class HeldMemory:
    """Large entries in the in-flight table, and the memory that they occupy."""

    def __init__(self, max_bytes: int | None) -> None:
        """`max_bytes` is the limit. None if there is no limit."""
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Count the large entries among new entries in the table."""
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

    A redelivered entry consists of bytes. When its handler starts, a decoded text exists as well."""
    if entry.texts:
        return sum(map(getsizeof, entry.texts)) + DICT_BYTES * len(entry.texts)
    texts = sum(len(part) * (1 if part.isascii() else MAX_TEXT_FACTOR) for part in entry.fields)
    return sum(map(getsizeof, entry.fields)) + texts + (DICT_BYTES + TEXT_BYTES) * len(entry.fields)
