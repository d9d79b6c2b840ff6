"""Writer of dead letters: a Lua script writes the dead letter and then acknowledges the entry.

If the dead letter cannot be written (Redis is out of memory, or the key has another type), the entry stays pending.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import UnexpectedReply

WRITE_AND_ACK = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 5))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""KEYS: the stream, the dead-letter stream. ARGV: group, consumer, entry id, maximum number of dead letters, then the
dead letter's fields. Redis does not roll back a script, but the script ends at the first command that fails. XADD
therefore runs before XACK. Returns 1, or 0 if the entry is not pending with this consumer."""


MAX_CHUNK_BYTES = 1_000_000
"""Approximate maximum size in bytes of the dead letters in one round trip."""

EncodedDeadLetter = tuple[str, Sequence[bytes]]
"""Id of an entry that failed, and fields of its dead letter."""

ExecutePipeline = Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]]
"""Coroutine function that executes commands in one round trip."""


def chunks_by_size(dead_letters: Iterable[EncodedDeadLetter]) -> Iterator[list[EncodedDeadLetter]]:
    """Split dead letters into lists of a suitable size for one round trip."""
    chunk: list[EncodedDeadLetter] = []
    size = 0
    for dead_letter in dead_letters:
        chunk.append(dead_letter)
        size += sum(map(len, dead_letter[1]))
        if size > MAX_CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class DeadLetterWriter:
    """Writes the dead letters of one consumer group."""

    def __init__(self, execute_pipeline: ExecutePipeline, stream: str, group: str, key: str, max_length: int) -> None:
        self._execute_pipeline, self._stream, self._group, self._key = execute_pipeline, stream, group, key
        self._max_length = max_length

    async def write_many(self, consumer: str, dead_letters: Sequence[EncodedDeadLetter]) -> list[bool | Exception]:
        """Write dead letters and acknowledge their entries in one round trip. Raises connection errors.

        Returns one result per entry: True if the dead letter was written, False if the entry is not pending with this
        consumer, or the Redis error. After a Redis error, the entry is still pending.
        """
        raw_replies = await self._execute_pipeline(
            [self._command(consumer, *dead_letter) for dead_letter in dead_letters]
        )
        return [_is_written(reply) for reply in raw_replies]

    def _command(self, consumer: str, message_id: str, fields: Sequence[bytes]) -> tuple[Any, ...]:
        arguments = (self._group, consumer, message_id, self._max_length, *fields)
        return ("EVAL", WRITE_AND_ACK, 2, self._stream, self._key, *arguments)


def _is_written(reply: Any) -> bool | Exception:
    if isinstance(reply, Exception):
        return reply
    try:
        return replies.one_of(reply, "the script that writes dead letters", (1, 0)) == 1
    except UnexpectedReply as error:
        return error
