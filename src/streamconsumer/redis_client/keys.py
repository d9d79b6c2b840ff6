"""Names of the companion keys that a consumer group has in addition to its stream, and their Cluster hash slots."""

from binascii import crc_hqx


def group_key(stream: str, group: str, suffix: str) -> str:
    """Return a companion key in the hash slot of the stream, such as `{orders}:billing:dead-letters`.

    Redis Cluster hashes the text between the first `{` and the next `}`, or else the whole key.
    """
    begin = stream.find("{")
    has_hash_tag = begin >= 0 and stream.find("}", begin) > begin + 1
    return f"{stream if has_hash_tag else f'{{{stream}}}'}:{group}:{suffix}"


def same_slot(stream: str) -> bool:
    """Return True if companion keys share the hash slot of the stream.

    False for a name that contains `}` but no hash tag, such as `a}b`.
    """
    return hash_slot(stream.encode()) == hash_slot(group_key(stream, "", "").encode())


def hash_slot(key: bytes) -> int:
    """Return the Cluster hash slot of a key: the CRC16 of its hash tag, or of the whole key if it has none."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    return crc_hqx(key[begin + 1 : end] if 0 <= begin < end - 1 else key, 0) % 16384


POSTPONED_CONSUMER = "~postponed"
"""Pseudo consumer that owns the group's postponed entries. These entries stay pending and survive every pod.

The sorted set `group_key(…, "postponed")` stores when each entry is due.
"""

COMPANION_SUFFIXES = ("postponed", "consumers", "readers", "last-known", "committed")
"""Suffixes of all companion keys that hold group state. Dead letters are messages, not group state."""
