"""The dead letters of one group, for who looks after them: found, read, replayed, dropped.

A replay adds the message to its stream again and deletes the letter, by Lua in one step. Run twice, or twice at the
same time, or killed in the middle: each letter is replayed once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from redis.exceptions import ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters.record import DeadLetter, from_fields, replay_fields
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import Execute

REPLAY = """
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return '' end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[2], ARGV[1])
return id
"""
"""KEYS: the stream, the dead letters. ARGV: the letter, then the fields to add. XADD goes first: if it fails, the
script ends there and the letter stays. Empty: somebody was faster."""

FIRST_PAGE_SIZE, MAX_PAGE_SIZE = 10, 1000
TARGET_PAGE_BYTES = 4_000_000
"""Entries are read in pages of about this size: one may have 16 MB, and most have a hundred bytes."""


class DeadLetterStore:
    """The letters that one group of one stream left under a key, which other groups may share."""

    def __init__(self, execute: Execute, stream: str, group: str, key: str) -> None:
        self._execute, self._stream, self._group, self._key = execute, stream, group, key
        self.skipped = 0
        """Entries that `find` met under the key and that are no dead letters of this group."""

    async def check(self) -> None:
        """Raises InvalidSettings where there can be no dead letters: what was asked for is misspelt."""
        kind = (await self._execute("TYPE", self._key)).decode()
        if kind == "none":
            await self._check_group()
        elif kind != "stream":
            raise InvalidSettings(f"key {self._key!r} is a {kind}, not a stream of dead letters; name another key")

    async def find(
        self, reasons: frozenset[str] = frozenset(), older_than: timedelta | None = None
    ) -> AsyncIterator[DeadLetter]:
        """The letters that are there now, oldest first, in pages. One that comes in meanwhile is not among them: a
        message that is replayed and fails again would never come to an end."""
        first, last = "-", await self._last_id(older_than)
        count = FIRST_PAGE_SIZE
        while last:
            page = await self._execute("XRANGE", self._key, first, last, "COUNT", count)
            for each in page:
                letter = self._parse(*each)
                self.skipped += letter is None
                if letter and (not reasons or letter.failure.reason in reasons):
                    yield letter
            if len(page) < count:
                return
            first = f"({page[-1][0].decode()}"
            size = sum(len(part) for each in page for part in each[1])
            count = max(1, min(MAX_PAGE_SIZE, TARGET_PAGE_BYTES * count // max(size, 1)))

    async def get(self, dead_letter_id: str) -> DeadLetter | None:
        """None: it was replayed, dropped or trimmed, or never was. Raises InvalidSettings for another's entry."""
        found = await self._execute("XRANGE", self._key, dead_letter_id, dead_letter_id)
        if not found:
            return None
        if letter := self._parse(*found[0]):
            return letter
        raise InvalidSettings(
            f"entry {dead_letter_id} of {self._key!r} is no dead letter of group {self._group!r} of stream "
            f"{self._stream!r}; nothing is done with it"
        )

    async def replay(self, dead_letter: DeadLetter) -> str | None:
        """Add the message to its stream again and delete the letter. The new entry's id; None: somebody was faster."""
        move = ("EVAL", REPLAY, 2, self._stream, self._key, dead_letter.dead_letter_id, *replay_fields(dead_letter))
        return str((await self._execute(*move)).decode()) or None

    async def drop(self, dead_letter_ids: Sequence[str]) -> int:
        """Delete letters for good. How many there were."""
        return int(await self._execute("XDEL", self._key, *dead_letter_ids))

    def _parse(self, dead_letter_id: bytes, fields: Sequence[bytes]) -> DeadLetter | None:
        letter = from_fields(dead_letter_id.decode(), fields)
        if letter and (letter.failure.stream, letter.failure.consumer_group) == (self._stream, self._group):
            return letter
        return None

    async def _last_id(self, older_than: timedelta | None) -> str:
        """The last id to look at; empty if there is nothing."""
        newest = await self._execute("XREVRANGE", self._key, "+", "-", "COUNT", 1)
        if not newest:
            return ""
        last: str = newest[0][0].decode()
        if older_than is None:
            return last
        seconds, microseconds = await self._execute("TIME")  # the server's clock made the ids
        milliseconds = int(seconds) * 1000 + int(microseconds) // 1000 - replies.to_milliseconds(older_than)
        return min(last, f"{max(0, milliseconds)}-{2**64 - 1}", key=replies.parse_id)

    async def _check_group(self) -> None:
        try:
            found = await self._execute("XINFO", "GROUPS", self._stream)
        except ResponseError as error:
            if "no such key" in str(error):
                raise InvalidSettings(f"there is no stream {self._stream!r}; check its name and the database") from None
            if str(error).startswith("WRONGTYPE"):
                raise InvalidSettings(f"key {self._stream!r} is not a stream; check its name") from None
            raise
        groups = [replies.to_dict(each)[b"name"].decode(errors="backslashreplace") for each in found]
        if self._group not in groups:
            there = f"it has {', '.join(map(repr, sorted(groups)))}" if groups else "it has none"
            raise InvalidSettings(f"stream {self._stream!r} has no group {self._group!r}; {there}")


async def rate_limited(dead_letters: AsyncIterator[DeadLetter], per_second: float) -> AsyncIterator[DeadLetter]:
    """The letters, evenly, at most so many a second: what killed the handlers once should not come back as a flood."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    async for letter in dead_letters:
        await asyncio.sleep(due - loop.time())
        due = max(due, loop.time()) + 1 / per_second
        yield letter
