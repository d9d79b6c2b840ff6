"""Retention: trims an entry from the stream only after every group has acknowledged it.

XTRIM ignores consumer groups. The trimmer therefore first determines an id below which every group has acknowledged
every entry, and then trims below this id. The id stays safe after the trimmer has queried Redis, for three reasons.

First, one script reads the positions and the pending entries of all groups, so that no consumer can read an entry
between both steps.

Second, entries are only added (with greater ids) or acknowledged after the query. Entries that were safe to trim
therefore stay safe.

Third, an id counts as safe only after two checks in a row have found the id safe. A group that is destroyed and
recreated at its old position has no pending entries until its consumers restore them. While the consumer's own group is
missing, no id is safe.

One case remains: another program may create a group at 0, or move a group back with XGROUP SETID, while the trimmer
runs. A group that is created or moved back while the trimmer runs does not receive the trimmed entries. A group that
starts at an earlier position never has a guarantee that the old entries still exist.

Each check of the trimmer sends one script and, if `max_age` is set, the command TIME. XTRIM with an exact id takes 4 ms
for a million entries (measured, Redis 7.0 and Valkey 9.1).
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from redis.exceptions import ResponseError

from streamconsumer.model import processor_settings
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.replies import Execute, UnexpectedReply
from streamconsumer.redis_client.scripts import load_script

EntryId = tuple[int, int]
"""Entry id as two numbers: milliseconds and sequence. A bound is the smallest id that is not trimmed."""

MAX_GROUPS = 999
"""A stream with more groups than this number is not trimmed, because Redis has no command that reads only some of the
groups."""

GROUP_BOUNDS = load_script("group_bounds", MAX_GROUPS=MAX_GROUPS)

ZERO_ID: EntryId = (0, 0)
"""Bound that trims nothing, because no entry has a smaller id."""


def safe_minimum(positions: Mapping[Any, EntryId], pending: Mapping[Any, EntryId]) -> EntryId:
    """Return the id below which every group has acknowledged every entry.

    `positions` are the groups' last-delivered ids, and `pending` are their smallest pending ids. Returns ZERO_ID if
    there is no group, so that a group that is about to be recreated still finds its entries.
    """
    return min(
        (min(next_id(position), pending.get(group, next_id(position))) for group, position in positions.items()),
        default=ZERO_ID,
    )


def trim_bound(retention: processor_settings.Retention, safe: EntryId, by_age: EntryId | None) -> EntryId:
    """Return the id below which entries are trimmed. The returned id is never greater than `safe`."""
    return safe if retention.acknowledged else min(by_age or ZERO_ID, safe)


def oldest_by_age(now_milliseconds: int, max_age: timedelta) -> EntryId:
    """Return the smallest id that is not older than `max_age`.

    Ids begin with the server's time, unless producers set their own ids.
    """
    return max(0, now_milliseconds - replies.to_milliseconds(max_age)), 0


def next_id(message_id: EntryId) -> EntryId:
    """Return the smallest id that is greater than `message_id`."""
    milliseconds, sequence = message_id
    return (milliseconds, sequence + 1) if sequence < 2**64 - 1 else (milliseconds + 1, 0)


def format_id(message_id: EntryId) -> str:
    """Return an id in Redis syntax."""
    return f"{message_id[0]}-{message_id[1]}"


def parse_id(message_id: Any) -> EntryId:
    """Parse an id in a raw reply."""
    return replies.parse_id(replies.entry_id(message_id, "XPENDING or XINFO GROUPS"))


class StreamTrimmer:
    """Trims one stream by its retention settings.

    One pod of the group calls `trim` every few seconds. Concurrent calls do no harm. The first call trims nothing: an
    entry is trimmed only after two consecutive calls have found it safe.
    """

    def __init__(self, execute: Execute, stream: str, group: str, retention: processor_settings.Retention) -> None:
        self._execute, self._stream, self._group, self._retention = execute, stream, group, retention
        self._previous_safe_id = ZERO_ID

    @property
    def is_enabled(self) -> bool:
        """True if the retention settings enable trimming."""
        return self._retention.acknowledged or self._retention.max_age is not None

    async def trim(self) -> int:
        """Trim the entries that both this call and the previous call found safe to trim. Returns the number of trimmed
        entries. Raises Redis errors."""
        if not self.is_enabled:
            return 0
        safe_id = await self._current_safe_id()
        previous_safe_id, self._previous_safe_id = self._previous_safe_id, safe_id
        bound = trim_bound(self._retention, min(safe_id, previous_safe_id), await self._age_bound())
        if bound == ZERO_ID:
            return 0
        return replies.count(await self._execute("XTRIM", self._stream, "MINID", "=", format_id(bound)), "XTRIM")

    async def _current_safe_id(self) -> EntryId:
        """Return the id below which every group has acknowledged every entry.

        Returns ZERO_ID if the stream or this consumer's group does not exist.
        """
        try:
            reply = await self._execute("EVAL", GROUP_BOUNDS, 1, self._stream, self._group)
        except ResponseError as error:
            if "no such key" in str(error):
                return ZERO_ID
            raise
        count, raw_lines = replies.array(reply, "XINFO GROUPS", 2)
        if replies.count(count, "XINFO GROUPS") > MAX_GROUPS:
            raise UnexpectedReply("XINFO GROUPS", count, f"at most {MAX_GROUPS} groups")
        lines = [replies.array(line, "XINFO GROUPS", 3) for line in replies.array(raw_lines, "XINFO GROUPS")]
        positions = {number: parse_id(position) for number, (_, position, _) in enumerate(lines)}
        pending = {number: parse_id(smallest) for number, (_, _, smallest) in enumerate(lines) if smallest}
        has_own_group = any(is_own for is_own, _, _ in lines)
        return safe_minimum(positions, pending) if has_own_group else ZERO_ID

    async def _age_bound(self) -> EntryId | None:
        """Return the smallest id that is not older than `max_age`. Returns None if `max_age` is not set.

        The age is measured by the server's clock, because this clock created the ids.
        """
        if self._retention.max_age is None:
            return None
        now = replies.server_time_microseconds(await self._execute("TIME"))
        return oldest_by_age(now // 1000, self._retention.max_age)
