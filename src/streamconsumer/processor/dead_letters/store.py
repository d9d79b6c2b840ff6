"""The dead letters of one group, for who looks after them: found, read, replayed, dropped.

A replay adds the message to its stream again and deletes the letter, by Lua in one step. Run twice, or twice at the
same time, or killed in the middle: each letter is replayed once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from redis.exceptions import ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters.record import DeadLetter, parse, replayed
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import Ask

REPLAY = """
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return '' end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[2], ARGV[1])
return id
"""
"""KEYS: the stream, the dead letters. ARGV: the letter, then the fields to add. XADD goes first: if it fails, the
script ends there and the letter stays. Empty: somebody was faster."""

FIRST_PAGE, LARGEST_PAGE = 10, 1000
PAGE_BYTES = 4_000_000
"""Entries are read in pages of about this size: one may have 16 MB, and most have a hundred bytes."""


class DeadLetterOffice:
    """The letters that one group of one stream left under a key, which other groups may share."""

    def __init__(self, ask: Ask, stream: str, group: str, key: str) -> None:
        self._ask, self._stream, self._group, self._key = ask, stream, group, key
        self.passed_over = 0
        """Entries that `find` met under the key and that are no dead letters of this group."""

    async def check(self) -> None:
        """Raises InvalidSettings where there can be no dead letters: what was asked for is misspelt."""
        kind = (await self._ask("TYPE", self._key)).decode()
        if kind == "none":
            await self._check_group()
        elif kind != "stream":
            raise InvalidSettings(f"key {self._key!r} is a {kind}, not a stream of dead letters; name another key")

    async def find(
        self, reasons: frozenset[str] = frozenset(), older_than: timedelta | None = None
    ) -> AsyncIterator[DeadLetter]:
        """The letters that are there now, oldest first, in pages. One that comes in meanwhile is not among them: a
        message that is replayed and fails again would never come to an end."""
        first, last = "-", await self._last(older_than)
        count = FIRST_PAGE
        while last:
            page = await self._ask("XRANGE", self._key, first, last, "COUNT", count)
            for each in page:
                letter = self._read(*each)
                self.passed_over += letter is None
                if letter and (not reasons or letter.evidence.reason in reasons):
                    yield letter
            if len(page) < count:
                return
            first = f"({page[-1][0].decode()}"
            size = sum(len(part) for each in page for part in each[1])
            count = max(1, min(LARGEST_PAGE, PAGE_BYTES * count // max(size, 1)))

    async def get(self, dead_letter_id: str) -> DeadLetter | None:
        """None: it was replayed, dropped or trimmed, or never was. Raises InvalidSettings for another's entry."""
        found = await self._ask("XRANGE", self._key, dead_letter_id, dead_letter_id)
        if not found:
            return None
        if letter := self._read(*found[0]):
            return letter
        raise InvalidSettings(
            f"entry {dead_letter_id} of {self._key!r} is no dead letter of group {self._group!r} of stream "
            f"{self._stream!r}; nothing is done with it"
        )

    async def replay(self, letter: DeadLetter) -> str | None:
        """Add the message to its stream again and delete the letter. The new entry's id; None: somebody was faster."""
        move = ("EVAL", REPLAY, 2, self._stream, self._key, letter.dead_letter_id, *replayed(letter))
        return str((await self._ask(*move)).decode()) or None

    async def drop(self, dead_letter_ids: Sequence[str]) -> int:
        """Delete letters for good. How many there were."""
        return int(await self._ask("XDEL", self._key, *dead_letter_ids))

    def _read(self, dead_letter_id: bytes, fields: Sequence[bytes]) -> DeadLetter | None:
        letter = parse(dead_letter_id.decode(), fields)
        if letter and (letter.evidence.stream, letter.evidence.consumer_group) == (self._stream, self._group):
            return letter
        return None

    async def _last(self, older_than: timedelta | None) -> str:
        """The last id to look at; empty if there is nothing."""
        newest = await self._ask("XREVRANGE", self._key, "+", "-", "COUNT", 1)
        if not newest:
            return ""
        last: str = newest[0][0].decode()
        if older_than is None:
            return last
        seconds, microseconds = await self._ask("TIME")  # the server's clock made the ids
        milliseconds = int(seconds) * 1000 + int(microseconds) // 1000 - replies.milliseconds(older_than)
        return min(last, f"{max(0, milliseconds)}-{2**64 - 1}", key=replies.order)

    async def _check_group(self) -> None:
        try:
            found = await self._ask("XINFO", "GROUPS", self._stream)
        except ResponseError as error:
            if "no such key" in str(error):
                raise InvalidSettings(f"there is no stream {self._stream!r}; check its name and the database") from None
            if str(error).startswith("WRONGTYPE"):
                raise InvalidSettings(f"key {self._stream!r} is not a stream; check its name") from None
            raise
        groups = [replies.pairs(each)[b"name"].decode(errors="backslashreplace") for each in found]
        if self._group not in groups:
            there = f"it has {', '.join(map(repr, sorted(groups)))}" if groups else "it has none"
            raise InvalidSettings(f"stream {self._stream!r} has no group {self._group!r}; {there}")


async def paced(letters: AsyncIterator[DeadLetter], each_second: float) -> AsyncIterator[DeadLetter]:
    """The letters, evenly, at most so many a second: what killed the handlers once should not come back as a flood."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    async for letter in letters:
        await asyncio.sleep(due - loop.time())
        due = max(due, loop.time()) + 1 / each_second
        yield letter
