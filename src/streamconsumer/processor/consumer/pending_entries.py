"""Pending entries list of a group: lists entries, and claims entries for this consumer.

The entries are pending with any consumer of the group, or with the pseudo consumer for postponed entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from streamconsumer.processor.consumer.large_entries import BOUNDED_READ, CLAIM_SUBJECT, BoundedReads, Claimed
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import Execute


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """Id and delivery count of a pending entry."""

    message_id: str
    deliveries: int


PAGE_SIZE = 200
"""Maximum number of pending entries that one command lists or moves."""

CLAIM = f"""{BOUNDED_READ}
local examined, trimmed = 0, 0
for i = 6, #ARGV, 2 do
  local id, deliveries = ARGV[i], ARGV[i + 1]
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then
    trimmed = trimmed + redis.call('XACK', KEYS[1], ARGV[1], id)
  elseif not add(id, entry[2], deliveries, tonumber(ARGV[4]), tonumber(ARGV[5]), function()
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
    local idle = pending and pending[2] == ARGV[2] and 0 or ARGV[3]
    local claim = {{KEYS[1], ARGV[1], ARGV[2], idle, id, 'RETRYCOUNT', deliveries, 'JUSTID'}}
    return #redis.call('XCLAIM', unpack(claim)) > 0
  end) then
    break
  end
  examined = examined + 1
end
return {{examined, trimmed, entries}}
"""
"""Lua script that claims pending entries. KEYS: the stream. ARGV: group, consumer, minimum idle time in milliseconds,
`page_bytes`, `entry_bytes`, then alternating ids and delivery counts. Returns the number of examined entries, the
number of trimmed entries, and the claimed entries. Trimmed entries are acknowledged, because such entries can never be
handled.

An entry that this consumer already owns is claimed regardless of its idle time, because the reply to an earlier claim
of the entry was lost."""


CLAIM_DUE = f"""{BOUNDED_READ}
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local trimmed = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, now, 'LIMIT', 0, ARGV[4])) do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  local is_restored = redis.call('ZSCORE', KEYS[2], id) % 1 > 0
  local is_free = pending and pending[2] == ARGV[3] or not pending and not is_restored
  local entry = is_free and redis.call('XRANGE', KEYS[1], id, id)[1]
  local count = pending and pending[4] or 0
  local function claim()
    local stored = redis.pcall('ZADD', KEYS[2], -now, id)
    if type(stored) == 'table' then redis.call('ZREM', KEYS[2], id) end  -- out of memory
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', count, 'FORCE', 'JUSTID')
    return true
  end
  if entry then
    if not add(id, entry[2], count, tonumber(ARGV[5]), tonumber(ARGV[6]), claim) then break end
  elseif is_free then
    trimmed = trimmed + 1
    redis.call('ZREM', KEYS[2], id)
    redis.call('XACK', KEYS[1], ARGV[1], id)
  elseif pending then
    local stored = redis.pcall('ZADD', KEYS[2], -now, id)
    if type(stored) == 'table' then redis.call('ZREM', KEYS[2], id) end  -- out of memory
  else
    redis.call('ZREM', KEYS[2], id)  -- acknowledged by the consumer that it was restored for
  end
end
return {{trimmed, entries}}
"""
"""Lua script that claims up to ARGV[4] postponed entries that are due. KEYS: the stream, the schedule of postponed
entries. ARGV: group, consumer, pseudo consumer, maximum number of entries, `page_bytes`, `entry_bytes`. Returns the
number of trimmed entries, and the claimed entries. Claimed entries stay in the schedule with a score below zero until a
snapshot is saved. If the reply to the claim is lost and the group is lost afterwards, only the schedule still contains
the claimed entries."""


class PendingEntries:
    """Pending entries list of a group, used by one of its consumers."""

    def __init__(self, execute: Execute, reads: BoundedReads, stream: str, group: str, consumer: str) -> None:
        self._execute, self._reads = execute, reads
        self._stream, self._group, self._consumer_name = stream, group, consumer

    async def page(
        self, owner: str, count: int, *, after: str = "", idle: timedelta | None = None
    ) -> list[PendingEntry]:
        """Return up to `count` pending entries of the consumer `owner`.

        If `after` is set, only entries after this id are returned. If `idle` is set, only entries that have been idle
        for at least this time are returned.
        """
        idle_filter = ("IDLE", replies.to_milliseconds(idle)) if idle else ()
        begin = f"({after}" if after else "-"
        reply = await self._execute("XPENDING", self._stream, self._group, *idle_filter, begin, "+", count, owner)
        lines = [replies.array(line, "XPENDING", 4) for line in replies.array(reply, "XPENDING")]
        return [
            PendingEntry(replies.entry_id(message_id, "XPENDING"), replies.count(deliveries, "XPENDING"))
            for message_id, _, _, deliveries in lines
        ]

    async def claim(self, pending: Sequence[PendingEntry], idle: timedelta) -> Claimed:
        """Claim entries for this consumer.

        Redis claims an entry only if the entry has been idle for at least `idle`. A claim resets the idle time, so that
        only the first of several simultaneous claims of an entry succeeds. The delivery counts are set to the counts in
        `pending`, because a claim starts no attempt.
        """
        if not pending:
            return Claimed([], 0)
        command = ("EVAL", CLAIM, 1, self._stream, self._group, self._consumer_name, replies.to_milliseconds(idle))
        ids_and_counts = [part for entry in pending for part in (entry.message_id, entry.deliveries)]
        return await self._reads.claim(*command, ids_and_counts=ids_and_counts)

    async def claim_due(self, count: int) -> Claimed:
        """Claim up to `count` postponed entries that are due."""
        keys = (self._stream, group_key(self._stream, self._group, "postponed"))
        command = ("EVAL", CLAIM_DUE, 2, *keys, self._group, self._consumer_name, POSTPONED_CONSUMER, count)
        trimmed, raw_entries = replies.array(await self._reads.execute_once(*command), CLAIM_SUBJECT, 2)
        return Claimed(self._reads.parse(raw_entries), replies.count(trimmed, CLAIM_SUBJECT))
