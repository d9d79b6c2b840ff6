"""Ids of spans that nobody has to remember.

An attempt's span id is a hash of the group, the message and how often it was begun. So whoever takes a message over
knows the span of the attempt that died with its process, and a dead letter that of the last attempt, though nobody
wrote either down: storing a context when an attempt begins would cost a round trip for each message.
A message without a producer's context gets its trace id in the same way: all its attempts are one trace, and a ratio
samples all of them or none.
"""

import secrets
from hashlib import blake2b


class Ids:
    """Those of one consumer group's messages. `origin` is the id under which a message was first added: a replay, which
    has another id, goes on in its trace."""

    def __init__(self, stream: str, consumer_group: str) -> None:
        self._key = blake2b(f"{stream}\0{consumer_group}".encode(), digest_size=16).digest()

    def trace(self, origin: str) -> bytes:
        return blake2b(origin.encode(), digest_size=16, key=self._key).digest()

    def attempt(self, message_id: str, number: int) -> bytes:
        """The span of an attempt; 1 is the first."""
        return blake2b(f"{message_id} {number}".encode(), digest_size=8, key=self._key).digest()

    def dead_letter(self, origin: str, replays: int) -> bytes:
        """The span of becoming a dead letter, after so many replays."""
        return blake2b(f"{origin} dead {replays}".encode(), digest_size=8, key=self._key).digest()


def random_trace() -> bytes:
    return secrets.token_bytes(16)


def random_span() -> bytes:
    return secrets.token_bytes(8)
