"""Burying: a script writes the dead letter and acknowledges the entry, in this order.

A letter that cannot be written (no memory, a key of another type) leaves the entry pending.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

WRITE_AND_ACK = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 5))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""KEYS: the stream, the dead letters. ARGV: group, consumer, entry, how many letters are kept, then the letter's
fields. Lua takes nothing back, but it ends at the first command that fails: XADD goes first. 0: not this consumer's."""


MAX_CHUNK_BYTES = 1_000_000

EncodedDeadLetter = tuple[str, Sequence[bytes]]
"""The entry's id, and what its letter holds."""

ExecutePipeline = Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]]
"""Sends commands in one round trip."""


def chunks_by_size(dead_letters: Iterable[EncodedDeadLetter]) -> Iterator[list[EncodedDeadLetter]]:
    """Those that travel together."""
    portion: list[EncodedDeadLetter] = []
    size = 0
    for letter in dead_letters:
        portion.append(letter)
        size += sum(map(len, letter[1]))
        if size > MAX_CHUNK_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


class DeadLetterWriter:
    """Where one consumer group's dead letters go."""

    def __init__(self, execute_pipeline: ExecutePipeline, stream: str, group: str, key: str, max_length: int) -> None:
        self._execute_pipeline, self._stream, self._group, self._key = execute_pipeline, stream, group, key
        self._max_length = max_length

    async def write_many(self, consumer: str, dead_letters: Sequence[EncodedDeadLetter]) -> list[bool | Exception]:
        """Write letters and acknowledge their entries. The answers: True; False for an entry that is not pending with
        this consumer; or the error of Redis, and then the entry is still pending. Raises connection errors."""
        answers = await self._execute_pipeline([self._command(consumer, *letter) for letter in dead_letters])
        return [each if isinstance(each, Exception) else bool(each) for each in answers]

    def _command(self, consumer: str, message_id: str, fields: Sequence[bytes]) -> tuple[Any, ...]:
        about = (self._group, consumer, message_id, self._max_length)
        return ("EVAL", WRITE_AND_ACK, 2, self._stream, self._key, *about, *fields)
