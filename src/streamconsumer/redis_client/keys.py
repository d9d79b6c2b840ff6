"""The names that one consumer group has of its own beside its stream."""

from binascii import crc_hqx


def group_key(stream: str, group: str, suffix: str) -> str:
    """A key in the stream's slot of a cluster, such as `{orders}:billing:dead-letters`. A cluster hashes what stands
    between the first `{` and the `}` after it, or else the whole key."""
    begin = stream.find("{")
    tagged = begin >= 0 and stream.find("}", begin) > begin + 1
    return f"{stream if tagged else f'{{{stream}}}'}:{group}:{suffix}"


def same_slot(stream: str) -> bool:
    """Whether keys beside the stream are in its slot of a cluster: not where its name has a `}` and no tag, as in
    `a}b`."""
    return hash_slot(stream.encode()) == hash_slot(group_key(stream, "", "").encode())


def hash_slot(key: bytes) -> int:
    """Where a cluster keeps a key: by the CRC16 of what stands between its first `{` and the `}` after it, or else of
    the whole key."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    return crc_hqx(key[begin + 1 : end] if 0 <= begin < end - 1 else key, 0) % 16384


POSTPONED_CONSUMER = "~postponed"
"""A consumer that nobody is: it holds the group's entries that wait to be tried again. They stay pending, and survive
every pod; `companion(…, "postponed")` says when each is due."""

COMPANION_SUFFIXES = ("postponed", "consumers", "readers", "last-known", "committed")
"""Names of all companion keys that hold the state of a group. Dead letters are messages, not state of the group."""
