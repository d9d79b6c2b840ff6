"""Entry ownership: renewing, counting, postponing and taking entries, each as one Lua script.

Redis runs a script in one step: whose an entry is, and what is done about it, must not fall apart. KEYS[1] is the
stream, ARGV[1] the group, ARGV[2] this consumer.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from redis.exceptions import OutOfMemoryError

from streamconsumer.processor.message import Entry
from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import DELETE_IDLE_CONSUMER

RENEW = """
local ids, mine, rest, lost = {}, {}, {}, {}
for i = 3, #ARGV do ids[ARGV[i]] = true end
local found = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[#ARGV], 2 * #ARGV, ARGV[2])
for _, entry in ipairs(found) do
  if ids[entry[1]] then mine[#mine + 1] = entry[1]; ids[entry[1]] = nil end
end
for id in pairs(ids) do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  local due = held and held[2] ~= ARGV[2] and tonumber(redis.call('ZSCORE', KEYS[2], id) or 0)
  if due and due % 1 > 0 then redis.pcall('ZADD', KEYS[2], -1, id) end
  if due and due % 1 == 0 then lost[#lost + 1] = id else mine[#mine + 1] = id end
end
if #mine > 0 then
  mine[#mine + 1] = 'FORCE'  -- in the table: anything behind unpack() would cut it to one
  mine[#mine + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(mine))
end
return lost
"""
"""A sign of life for the entries, given in order, that are not another consumer's. Returns those that are. One that is
nobody's was pending with a group that is gone and was created again by a peer: it is put back, if the stream still has
it. (Or a peer took it over and acknowledged it already: then it has been handled twice anyway.) A renewal that did not
ask first would steal entries back from their new owner. What a peer put back for whoever knows of it (`restore`) is
ours, and stays in the schedule, below zero, until a note holds it. One look at a range of twice as many costs half of a
look at each (1.9 against 3.4 ms for 200)."""

START_ATTEMPT = """
local function held(...) return #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ...) == 1 end
if not held(ARGV[2]) and held() then return 0 end
if #redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3]) == 0 then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  return -1
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', ARGV[4], 'FORCE', 'JUSTID')
return 1
"""
"""Before a redelivered entry begins, Redis is told how often it was begun: if it kills this process, that stays known.
1: may begin. 0: another consumer has it. -1: it was trimmed from the stream, and is settled."""

SET_DELIVERY_COUNTS = """
for i = 3, #ARGV, 2 do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end
return 0
"""
"""How often entries were begun: ids and counts in turn. An attempt that does not count is taken back before the wait
that follows it, or a peer of a process that is killed meanwhile would count it."""

POSTPONE = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
for i = 4, #ARGV, 3 do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('ZADD', KEYS[2], now + ARGV[i + 2], ARGV[i])
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end
return 0
"""
"""Entries go to the pseudo consumer ARGV[3] until they are due: ids, counts and milliseconds in turn. First the due
time, which may fail for want of memory, then the entry, which may not."""

CLAIM_DUE = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local entries, gone = {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, now, 'LIMIT', 0, ARGV[4])) do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  local on_probation = redis.call('ZSCORE', KEYS[2], id) % 1 > 0
  local told = redis.pcall('ZADD', KEYS[2], -now, id)
  if type(told) == 'table' then redis.call('ZREM', KEYS[2], id) end  -- there is no memory for it
  if not held and on_probation then
    redis.call('ZREM', KEYS[2], id)  -- settled by whom it was put back for
  elseif not held or held[2] == ARGV[3] then
    local count = held and held[4] or 0
    local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', count, 'FORCE')[1]
    if claimed and claimed[2] then
      entries[#entries + 1] = {id, claimed[2], count}
    else
      gone = gone + 1
      redis.call('ZREM', KEYS[2], id)
      redis.call('XACK', KEYS[1], ARGV[1], id)
    end
  end
end
return {gone, entries}
"""
"""This consumer takes the postponed entries that are due. Returns how many were trimmed meanwhile, and the entries with
their counts. They stay in the schedule, below zero, until `NOTE` sees them settled: should the reply be lost, and then
the group, nobody else would know of them."""

REPAIR_SCHEDULE = """
for _, held in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], '-', '+', 100, ARGV[3])) do
  if tonumber(redis.call('ZSCORE', KEYS[2], held[1]) or -1) < 0 then redis.call('ZADD', KEYS[2], 0, held[1]) end
end
return 0
"""
"""Postponed entries whose due time was lost, with a key that was deleted or evicted, are due now."""


class Leases:
    """What one consumer may do with entries only while they are its own."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._stream, self._group, self._consumer_name = execute, stream, group, consumer
        self._schedule_key = group_key(stream, group, "postponed")
        self._members_key = group_key(stream, group, "consumers")

    async def register(self) -> None:
        """Be known as one of ours: peers then take this consumer for dead within seconds of its last sign of life. A
        server that is out of memory refuses: then they wait `min_idle`, as for any stranger."""
        with suppress(OutOfMemoryError):
            await self._execute("XGROUP", "CREATECONSUMER", self._stream, self._group, self._consumer_name)
            await self.announce(await self.server_time_milliseconds() / 1000)

    async def announce(self, now_seconds: float) -> None:
        """Say that this consumer is there; by the server's clock. A server that is out of memory refuses to hear it:
        then the others take it for absent, and look more often than they need to."""
        with suppress(OutOfMemoryError):
            await self._execute("HSET", self._members_key, self._consumer_name, round(now_seconds))

    async def members(self) -> dict[str, float]:
        """Consumers of ours, and when they last said that they are there."""
        flat = await self._execute("HGETALL", self._members_key)
        return {name.decode(): float(seen) for name, seen in replies.to_dict(flat).items()}

    async def renew(self, message_ids: Sequence[str]) -> list[str]:
        """A sign of life for those that are not another consumer's. Returns those that are."""
        in_order = sorted(message_ids, key=replies.parse_id)
        return [each.decode() for each in await self._run_script(RENEW, [self._schedule_key], *in_order)]

    async def start_attempt(self, message_id: str, deliveries: int) -> int:
        """Count that an entry begins again. 1: it may; 0: another consumer has it; -1: it is trimmed, and settled."""
        return int(await self._run_script(START_ATTEMPT, [], message_id, deliveries))

    async def set_delivery_counts(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct how often entries (id, deliveries) were begun."""
        flat = [part for each in entries for part in each]
        await self._run_script(SET_DELIVERY_COUNTS, [], *flat)

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """Let entries (id, deliveries, delay) be due for any consumer after their delays."""
        flat = [part for each in entries for part in (each[0], each[1], replies.to_milliseconds(each[2]))]
        await self._run_script(POSTPONE, [self._schedule_key], POSTPONED_CONSUMER, *flat)

    async def claim_due(self, count: int) -> tuple[int, list[Entry]]:
        """Take postponed entries that are due. How many were trimmed, and the entries."""
        trimmed, found = await self._run_script(CLAIM_DUE, [self._schedule_key], POSTPONED_CONSUMER, count)
        return int(trimmed), [Entry.redelivered(each[0], each[1], int(each[2])) for each in found]

    async def repair_schedule(self, idle: timedelta) -> None:
        """Postponed entries whose due time was lost, or that somebody died over who was about to take them, are due."""
        await self._run_script(REPAIR_SCHEDULE, [self._schedule_key], POSTPONED_CONSUMER, replies.to_milliseconds(idle))

    async def delete_consumer(self, consumer: str | None = None) -> bool:
        """Delete this or another consumer if nothing is pending with it."""
        name = self._consumer_name if consumer is None else consumer
        keys = [self._members_key, group_key(self._stream, self._group, "readers")]
        return int(await self._run_script(DELETE_IDLE_CONSUMER, keys, consumer=name)) >= 0

    async def _run_script(self, script: str, keys: list[str], *arguments: Any, consumer: str = "") -> Any:
        who = (self._group, consumer or self._consumer_name)
        return await self._execute("EVAL", script, 1 + len(keys), self._stream, *keys, *who, *arguments)

    async def server_time_milliseconds(self) -> int:
        """By the server's clock."""
        seconds, microseconds = await self._execute("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000
