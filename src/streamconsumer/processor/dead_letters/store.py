"""Store of one consumer group's dead letters. The CLI uses the store to find, read, replay and drop dead letters.

One Lua script adds the message to its stream again and deletes the dead letter. Each dead letter is therefore replayed
only once, even if the CLI command is repeated, run twice at the same time, or killed.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from redis.exceptions import ResponseError

from streamconsumer.errors import InvalidSettings
from streamconsumer.processor.dead_letters.record import DeadLetter, from_fields, replay_fields
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import entry_keys, group_key
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.reply_limits import ReplyTooLarge
from streamconsumer.redis_client.scripts import LIST_GROUPS, load_script

REPLAY = load_script("replay_dead_letter")
FIRST_ID = load_script("first_id")
LAST_ID = load_script("last_id")
REDELIVER = load_script("redeliver")

FIRST_PAGE_SIZE, MAX_PAGE_SIZE = 10, 1000
TARGET_PAGE_BYTES = 4_000_000
"""Approximate size of a page. The number of entries in a page depends on their sizes, which range from 100 bytes to
16 MB."""


MAX_LISTED_GROUPS = 20
"""Maximum number of existing groups that the error message about a missing group lists."""


class DeadLetterStore:
    """Dead letters of one consumer group, in a dead-letter stream that other groups may also use."""

    def __init__(self, execute: Execute, stream: str, group: str, key: str) -> None:
        self._execute, self._stream, self._group, self._key = execute, stream, group, key
        self.skipped = 0
        """Number of entries that `find` has skipped because they are not dead letters of this group."""
        self.too_large: list[str] = []
        """Ids of the entries that `find` has skipped because they exceed the limit of a reply."""

    async def check(self) -> None:
        """Raise InvalidSettings if no dead letters can exist because the stream, the group or the key is wrong."""
        key_type = replies.text(await self._execute("TYPE", self._key), "TYPE")
        if key_type == "none":
            await self._check_group()
        elif key_type != "stream":
            raise InvalidSettings(f"key {self._key!r} is a {key_type}, not a dead-letter stream; use another key")

    async def find(
        self, reasons: frozenset[str] = frozenset(), older_than: timedelta | None = None
    ) -> AsyncIterator[DeadLetter]:
        """Yield the current dead letters, oldest first. Reads the dead-letter stream in pages.

        Dead letters that are added after the start of the search are not included. If later dead letters were included,
        a message that is replayed and fails again would be replayed forever.
        """
        first, last = "-", await self._last_id(older_than)
        count = FIRST_PAGE_SIZE
        while last:
            try:
                page = await self._read_range(first, last, count)
            except ReplyTooLarge:
                if count == 1:
                    first = f"({await self._skip_too_large(first, last)}"
                count = 1
                continue
            for dead_letter_id, fields in page:
                dead_letter = self._parse(dead_letter_id, fields)
                self.skipped += dead_letter is None
                if dead_letter and (not reasons or dead_letter.failure.reason in reasons):
                    yield dead_letter
            if len(page) < count:
                return
            first = f"({page[-1][0]}"
            size = sum(len(part) for _, fields in page for part in fields)
            count = max(1, min(MAX_PAGE_SIZE, TARGET_PAGE_BYTES * count // max(size, 1)))

    async def get(self, dead_letter_id: str) -> DeadLetter | None:
        """Return a dead letter. Returns None if no entry with this id exists, for example after a replay, a drop or
        trimming.

        Raises InvalidSettings if the entry is not a dead letter of this group.
        """
        try:
            page = await self._read_range(dead_letter_id, dead_letter_id, 1)
        except ReplyTooLarge as error:
            raise InvalidSettings(f"entry {dead_letter_id} of {self._key!r} is left unchanged: {error}") from None
        if not page:
            return None
        if dead_letter := self._parse(*page[0]):
            return dead_letter
        raise InvalidSettings(
            f"entry {dead_letter_id} of {self._key!r} is left unchanged: it is not a dead letter of group "
            f"{self._group!r} of stream {self._stream!r}"
        )

    async def replay(self, dead_letter: DeadLetter) -> str | None:
        """Add the message to its stream again and delete the dead letter.

        An unreadable dead letter contains no values. The replay of an unreadable dead letter therefore makes its
        original entry pending again.

        Returns the id of the entry that the group receives, or None if the dead letter no longer exists. Raises
        InvalidSettings if the original entry of an unreadable dead letter is no longer in the stream.
        """
        if dead_letter.is_unreadable:
            return await self._redeliver(dead_letter)
        move = ("EVAL", REPLAY, 2, self._stream, self._key, dead_letter.dead_letter_id, *replay_fields(dead_letter))
        return replies.text(await self._execute(*move), "XADD") or None

    async def _redeliver(self, dead_letter: DeadLetter) -> str | None:
        snapshot = group_key(self._stream, self._group, "last-known")
        keys = (*entry_keys(self._stream, self._group), self._key, snapshot)
        entry_id = dead_letter.failure.message_id
        arguments = (self._group, "", dead_letter.dead_letter_id, entry_id)
        replayed = await self._execute("EVAL", REDELIVER, len(keys), *keys, *arguments)
        if replayed == b"gone":
            raise InvalidSettings(
                f"dead letter {dead_letter.dead_letter_id} cannot be replayed: it contains no values, and its original "
                f"entry {entry_id} is no longer in stream {self._stream!r}; the dead letter is left unchanged"
            )
        return replies.text(replayed, "EVAL") or None

    async def drop(self, dead_letter_ids: Sequence[str]) -> int:
        """Delete dead letters permanently. Returns the number of deleted dead letters."""
        return replies.count(await self._execute("XDEL", self._key, *dead_letter_ids), "XDEL")

    async def _read_range(self, first: str, last: str, count: int) -> list[tuple[str, list[bytes]]]:
        """Return up to `count` entries with their ids. Raises ReplyTooLarge."""
        return replies.entries(await self._execute("XRANGE", self._key, first, last, "COUNT", count), "XRANGE")

    async def _skip_too_large(self, first: str, last: str) -> str:
        """Record the first entry of a range as too large, and return its id."""
        reply = await self._execute("EVAL", FIRST_ID, 1, self._key, first, last)
        dead_letter_id = replies.entry_id(reply, "XRANGE")
        self.too_large.append(dead_letter_id)
        return dead_letter_id

    def _parse(self, dead_letter_id: str, fields: Sequence[bytes]) -> DeadLetter | None:
        dead_letter = from_fields(dead_letter_id, fields)
        if dead_letter is None:
            return None
        is_own = (dead_letter.failure.stream, dead_letter.failure.consumer_group) == (self._stream, self._group)
        return dead_letter if is_own else None

    async def _last_id(self, older_than: timedelta | None) -> str:
        """Return the id of the last entry that `find` reads. Returns an empty string if there are no entries."""
        newest = await self._execute("EVAL", LAST_ID, 1, self._key)
        if not newest:
            return ""
        last = replies.entry_id(newest, "XREVRANGE")
        if older_than is None:
            return last
        now = replies.server_time_microseconds(await self._execute("TIME"))  # Redis creates ids from its own clock
        milliseconds = now // 1000 - replies.to_milliseconds(older_than)
        return min(last, f"{max(0, milliseconds)}-{2**64 - 1}", key=replies.parse_id)

    async def _check_group(self) -> None:
        try:
            reply = await self._execute("EVAL", LIST_GROUPS, 1, self._stream, self._group, MAX_LISTED_GROUPS)
        except ResponseError as error:
            if "no such key" in str(error):
                raise InvalidSettings(
                    f"stream {self._stream!r} not found; check its name and the database number"
                ) from None
            if str(error).startswith("WRONGTYPE"):
                raise InvalidSettings(f"key {self._stream!r} is not a stream; check the name of the stream") from None
            raise
        exists, count, names = replies.array(reply, "XINFO GROUPS", 3)
        if not exists:
            listed = sorted(replies.text(name, "XINFO GROUPS") for name in replies.array(names, "XINFO GROUPS"))
            others = replies.count(count, "XINFO GROUPS") - len(listed)
            parts = [*map(repr, listed), *([f"{others} more"] if others > 0 else [])]
            existing = f"its groups are {', '.join(parts)}" if parts else "it has no groups"
            raise InvalidSettings(f"stream {self._stream!r} has no group {self._group!r}; {existing}")


async def rate_limited(dead_letters: AsyncIterator[DeadLetter], per_second: float) -> AsyncIterator[DeadLetter]:
    """Yield at most `per_second` dead letters, at regular intervals, so that a replay does not overload handlers."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    async for dead_letter in dead_letters:
        await asyncio.sleep(due - loop.time())
        due = max(due, loop.time()) + 1 / per_second
        yield dead_letter
