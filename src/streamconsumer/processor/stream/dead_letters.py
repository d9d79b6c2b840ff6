"""Burying: the dead letter is written and the entry acknowledged, in this order and, by Lua, in one step.

A letter that cannot be written (no memory, a key of another type, a right that lacks) leaves the entry pending. Where
the ACL forbids EVAL, and for entries of more than 3500 fields, these are two commands. Without MULTI: a transaction
does not stop at a command that fails, and would acknowledge what it could not write. So nothing is lost in this case
either; a process that dies between the two leaves a letter behind and the message pending: handled once more, and
perhaps buried twice.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from streamconsumer.processor.stream.one_step import Ask, OneStep

BURY = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 5))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""KEYS: the stream, the dead letters. ARGV: group, consumer, entry, how many letters are kept, then the letter's
fields. Lua takes nothing back, but it ends at the first command that fails: XADD goes first. 0: not this consumer's."""


PORTION_BYTES = 1_000_000

Letter = tuple[str, Sequence[bytes]]
"""The entry's id, and what its letter holds."""

Together = Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]]
"""Sends commands in one round trip."""


def portions(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """Those that travel together."""
    portion: list[Letter] = []
    size = 0
    for letter in letters:
        portion.append(letter)
        size += sum(map(len, letter[1]))
        if size > PORTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


class DeadLetters:
    """Where one consumer group's dead letters go."""

    def __init__(self, ask: Ask, stream: str, group: str, key: str, max_length: int) -> None:
        self._ask, self._stream, self._group, self._key, self._max_length = ask, stream, group, key, max_length
        self._one_step = OneStep(ask, "dead letters are moved")
        self._written: set[str] = set()
        """Entries whose letter is written, and whose acknowledgement is not known to have arrived."""

    async def bury(self, consumer: str, message_id: str, fields: Sequence[bytes]) -> bool:
        """Write the letter and acknowledge the entry. False: it is not pending with this consumer (any more). Raises
        what Redis raised, and then the entry is still pending."""
        about = self._about(consumer, message_id)
        buried = await self._one_step.run(BURY, (self._stream, self._key), *about, unpacked=fields)
        if buried is None:
            return await self._bury_in_two(consumer, message_id, fields)
        return bool(buried)

    async def bury_all(self, consumer: str, letters: Sequence[Letter], together: Together) -> list[bool | Exception]:
        """Many at once; what Redis raised for one is its answer. Raises what is the connection's."""
        commands = [
            self._one_step.command(BURY, (self._stream, self._key), *self._about(consumer, message_id), unpacked=fields)
            for message_id, fields in letters
        ]
        sent = [command for command in commands if command is not None]
        replies = iter(await together(sent) if sent else [])
        answers: list[bool | Exception] = []
        for letter, command in zip(letters, commands, strict=True):
            reply: Any = None if command is None else next(replies)
            if command is None or isinstance(reply, NoPermissionError):
                reply = await self._alone(consumer, letter)
            answers.append(reply if isinstance(reply, Exception) else bool(reply))
        return answers

    async def _alone(self, consumer: str, letter: Letter) -> bool | Exception:
        try:
            return await self.bury(consumer, *letter)
        except ResponseError as error:
            return error

    def _about(self, consumer: str, message_id: str) -> tuple[Any, ...]:
        return self._group, consumer, message_id, self._max_length

    async def _bury_in_two(self, consumer: str, message_id: str, fields: Sequence[bytes]) -> bool:
        held = await self._ask("XPENDING", self._stream, self._group, message_id, message_id, 1, consumer)
        if not held:
            self._written.discard(message_id)
            return False
        if message_id not in self._written:
            await self._ask("XADD", self._key, "MAXLEN", "~", self._max_length, "*", *fields)
            self._written.add(message_id)
        await self._ask("XACK", self._stream, self._group, message_id)
        self._written.discard(message_id)
        return True
