"""Writer of dead letters: a Lua script writes the dead letter and then acknowledges the entry.

The entry stays pending if the dead letter cannot be written, for example because Redis is out of memory or the key has
another type.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from streamconsumer.redis_client.keys import entry_keys
from streamconsumer.redis_client.outcome import Outcome, parse_outcome
from streamconsumer.redis_client.replies import UnexpectedReply
from streamconsumer.redis_client.scripts import load_script

WRITE_AND_ACK = load_script("write_dead_letter")

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

    async def write_many(self, consumer: str, dead_letters: Sequence[EncodedDeadLetter]) -> list[Outcome | Exception]:
        """Write dead letters and acknowledge their entries in one round trip. Raises connection errors.

        Returns one result per entry: DONE if the dead letter was written, LOST if another consumer owns the entry, or
        the Redis error. After a Redis error, the entry is still pending.
        """
        raw_replies = await self._execute_pipeline(
            [self._command(consumer, *dead_letter) for dead_letter in dead_letters]
        )
        return [_parse(reply) for reply in raw_replies]

    def _command(self, consumer: str, message_id: str, fields: Sequence[bytes]) -> tuple[Any, ...]:
        arguments = (self._group, consumer, message_id, self._max_length, *fields)
        return ("EVAL", WRITE_AND_ACK, 6, *entry_keys(self._stream, self._group), self._key, *arguments)


def _parse(reply: Any) -> Outcome | Exception:
    if isinstance(reply, Exception):
        return reply
    try:
        return parse_outcome(reply, "the script that writes dead letters")
    except UnexpectedReply as error:
        return error
