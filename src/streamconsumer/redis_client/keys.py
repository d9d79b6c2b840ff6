"""Names and hash slots of companion keys: the Redis keys that a consumer group has in addition to its stream."""

from binascii import crc_hqx


def group_key(stream: str, group: str, suffix: str) -> str:
    """Return the name of a companion key in the stream's hash slot, such as `{orders}:billing:dead-letters`.

    Redis Cluster hashes the text between the first `{` and the next `}`, or the whole key if there is no such text. If
    the name of the stream already contains such a hash tag, the companion key begins with the name of the stream and
    two colons.

    No two groups share a companion key. A colon in the name of the group is escaped, so the last two colons separate
    the three parts of the key. The first part ends with a colon if the stream has a hash tag, otherwise with `}`.
    """
    begin = stream.find("{")
    has_hash_tag = begin >= 0 and stream.find("}", begin) > begin + 1
    escaped_group = group.replace("%", "%25").replace(":", "%3A")
    return f"{f'{stream}:' if has_hash_tag else f'{{{stream}}}'}:{escaped_group}:{suffix}"


def same_slot(stream: str) -> bool:
    """Return True if the stream's companion keys are in the hash slot of the stream.

    Returns False for a stream name that contains `}` but no hash tag, such as `a}b`.
    """
    return hash_slot(stream.encode()) == hash_slot(group_key(stream, "", "").encode())


def hash_slot(key: bytes) -> int:
    """Return the hash slot of a key: the CRC16 of its hash tag, or of the whole key if the key has no hash tag."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    return crc_hqx(key[begin + 1 : end] if 0 <= begin < end - 1 else key, 0) % 16384


POSTPONED_CONSUMER = "~postponed"
"""Pseudo consumer that owns the group's postponed entries. Postponed entries stay pending even if all pods end.

The sorted set `group_key(…, "postponed")` stores when each entry is due.
"""

ENTRY_SUFFIXES = ("postponed", "claimed", "claimed-before", "committed")
"""Suffixes of the companion keys that the scripts about single entries use."""

CONSUMER_SUFFIXES = ("consumers", "registrations")
"""Suffixes of the companion hashes that have a field for each consumer."""

COMPANION_SUFFIXES = (*ENTRY_SUFFIXES, *CONSUMER_SUFFIXES, "last-known")
"""Suffixes of all companion keys that contain group state. The list omits the dead-letter stream, because dead letters
are messages."""

CLAIM_HASH_SIZE, CLAIM_SECONDS = 5000, 86_400
"""Limits of the two companion hashes that record claims: the maximum number of claims in each hash, and the time
without a new claim after which a hash expires."""

MAX_REMEMBERED_COMMITS = 50_000
"""Maximum number of remembered commits and dead letters per group. The ids of 50,000 commits occupy about 6 MB."""


def entry_keys(stream: str, group: str) -> list[str]:
    """Return the keys that each script about single entries gets first: the stream, and the companion keys of
    ENTRY_SUFFIXES."""
    return [stream, *(group_key(stream, group, suffix) for suffix in ENTRY_SUFFIXES)]
