"""Leases on entries: Lua scripts that renew leases, store delivery counts and postpone entries.

A consumer owns an entry that is pending with it. Renewing the lease resets the entry's idle time, so that no other
consumer claims the entry. Each script checks the owner of an entry and changes the entry in one atomic step. In all
scripts, KEYS[1] is the stream, ARGV[1] is the group, and ARGV[2] is this consumer.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from redis.exceptions import OutOfMemoryError

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.hash_scan import scan_numbers
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import DELETE_IDLE_CONSUMER

RENEW = """
local ids, renewed, lost = {}, {}, {}
for i = 3, #ARGV do ids[ARGV[i]] = true end
local own_pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[#ARGV], 2 * #ARGV, ARGV[2])
for _, entry in ipairs(own_pending) do
  if ids[entry[1]] then renewed[#renewed + 1] = entry[1]; ids[entry[1]] = nil end
end
for id in pairs(ids) do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  local due = pending and pending[2] ~= ARGV[2] and tonumber(redis.call('ZSCORE', KEYS[2], id) or 0)
  if due and due % 1 > 0 then redis.pcall('ZADD', KEYS[2], -1, id) end
  if due and due % 1 == 0 then lost[#lost + 1] = id else renewed[#renewed + 1] = id end
end
if #renewed > 0 then
  renewed[#renewed + 1] = 'FORCE'  -- in the table: an argument after unpack() would truncate it to one value
  renewed[#renewed + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(renewed))
end
return lost
"""
"""Lua script that renews the leases of the entries ARGV[3…], whose ids must be in stream order. Returns the ids of
entries that another consumer owns.

The script checks the owner first, because a renewal without this check would take an entry back from its new owner. If
an entry in flight is not pending, another consumer has recreated the group. The script makes the entry pending again if
the stream still contains the entry. If another consumer has claimed and acknowledged the entry instead, the message has
already been handled twice. If another consumer has restored the entry (see `GroupSnapshot`), this consumer takes the
entry back. An entry that was taken back stays in the schedule with a score below zero until a snapshot contains the
entry.

For 200 ids, one XPENDING query for a range of up to 400 entries takes 1.9 ms. One XPENDING query per id takes 3.4 ms in
total.
"""

START_ATTEMPT = """
local function is_pending(...) return #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ...) == 1 end
if not is_pending(ARGV[2]) and is_pending() then return 0 end
if #redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3]) == 0 then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  return -1
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'RETRYCOUNT', ARGV[4], 'FORCE', 'JUSTID')
return 1
"""
"""Lua script that stores the delivery count ARGV[4] of the redelivered entry ARGV[3] before the attempt starts, so that
the count survives a crash of this process. Returns 1 if the attempt may start, and 0 if another consumer owns the
entry. If the entry was trimmed from the stream, the script acknowledges the entry and returns -1."""

SET_DELIVERY_COUNTS = """
for i = 3, #ARGV, 2 do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end
return 0
"""
"""Lua script that stores delivery counts, given in ARGV as alternating ids and counts. The processor uses the script to
subtract an attempt that does not count, before it waits for the next attempt. Without the subtraction, another consumer
would count this attempt if this process were killed during the wait."""

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
"""Lua script that moves entries to the pseudo consumer ARGV[3] until they are due. For each entry, ARGV[4…] contains
the id, the delivery count and the delay in milliseconds. The script stores the due time first, because a server without
free memory rejects only this write."""

REPAIR_SCHEDULE = """
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], '-', '+', 100, ARGV[3])) do
  if tonumber(redis.call('ZSCORE', KEYS[2], pending[1]) or -1) < 0 then redis.call('ZADD', KEYS[2], 0, pending[1]) end
end
return 0
"""
"""Lua script that makes postponed entries due now if they have no due time, for example because the Redis key of the
schedule was deleted or evicted."""


ALMOST_LAST_ID = f"{2**64 - 1}-{2**64 - 2}"
"""Last possible entry id but one. XREADGROUP treats the last possible id like `>`."""

_RENEWAL = "the script that renews leases"


class Leases:
    """Leases of one consumer on entries, and the registration of the consumer as a member of its group."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._stream, self._group, self._consumer_name = execute, stream, group, consumer
        self._schedule_key = group_key(stream, group, "postponed")
        self._members_key = group_key(stream, group, "consumers")

    async def register(self) -> None:
        """Register this consumer, so that other consumers detect its death within seconds of its last heartbeat.

        A server that is out of memory rejects the registration. Without the registration, other consumers claim this
        consumer's entries only after `min_idle`, as they claim the entries of another program's consumers.
        """
        with suppress(OutOfMemoryError):
            await self._execute("XGROUP", "CREATECONSUMER", self._stream, self._group, self._consumer_name)
            await self.announce(await self.server_time_milliseconds() / 1000)

    async def announce(self, now_seconds: float) -> None:
        """Store in the members hash that this consumer was active at `now_seconds` on the server's clock.

        A server that is out of memory rejects the write. After a rejected write, other consumers treat this consumer as
        absent and run their liveness checks more often than needed.
        """
        with suppress(OutOfMemoryError):
            await self._execute("HSET", self._members_key, self._consumer_name, round(now_seconds))

    async def members(self) -> dict[str, float]:
        """Return the registered consumers and the time of their last announcement.

        If the members hash has more fields than `scan_numbers` reads, some consumers are missing. The entries of a
        missing consumer are claimed only after `min_idle` if the consumer dies.
        """
        return {
            name: float(seconds) for name, seconds in (await scan_numbers(self._execute, self._members_key)).items()
        }

    async def renew(self, message_ids: Sequence[str]) -> list[str]:
        """Renew the leases of entries. Returns the ids of entries that another consumer owns."""
        sorted_ids = sorted(message_ids, key=replies.parse_id)
        lost = replies.array(await self._run_script(RENEW, [self._schedule_key], *sorted_ids), _RENEWAL)
        return [replies.entry_id(message_id, _RENEWAL) for message_id in lost]

    async def show_activity(self) -> None:
        """Reset the idle time of this consumer without changing its entries."""
        read = ("XREADGROUP", "GROUP", self._group, self._consumer_name, "COUNT", 1)
        await self._execute(*read, "STREAMS", self._stream, ALMOST_LAST_ID)

    async def start_attempt(self, message_id: str, deliveries: int) -> int:
        """Store the delivery count of an entry before its next attempt.

        Returns 1 if the attempt may start, 0 if another consumer owns the entry, and -1 if the entry was trimmed and is
        now acknowledged.
        """
        reply = await self._run_script(START_ATTEMPT, [], message_id, deliveries)
        return replies.one_of(reply, "the script that starts an attempt", (1, 0, -1))

    async def set_delivery_counts(self, entries: Sequence[tuple[str, int]]) -> None:
        """Correct the delivery counts of entries, given as (id, deliveries)."""
        flat = [part for entry in entries for part in entry]
        await self._run_script(SET_DELIVERY_COUNTS, [], *flat)

    async def postpone(self, entries: Sequence[tuple[str, int, timedelta]]) -> None:
        """Postpone entries, given as (id, deliveries, delay). After the delay, any consumer may claim the entry."""
        flat: list[str | int] = []
        for message_id, deliveries, delay in entries:
            flat += [message_id, deliveries, replies.to_milliseconds(delay)]
        await self._run_script(POSTPONE, [self._schedule_key], POSTPONED_CONSUMER, *flat)

    async def repair_schedule(self, idle: timedelta) -> None:
        """Make postponed entries due if they have been idle for `idle` and have no due time.

        An entry has no due time if the due time was lost, or if a consumer died while claiming the entry.
        """
        await self._run_script(REPAIR_SCHEDULE, [self._schedule_key], POSTPONED_CONSUMER, replies.to_milliseconds(idle))

    async def delete_consumer(self, consumer: str | None = None) -> bool:
        """Delete a consumer, by default this one. Returns False and deletes nothing if the consumer has pending
        entries."""
        name = self._consumer_name if consumer is None else consumer
        keys = [self._members_key, group_key(self._stream, self._group, "readers")]
        reply = await self._run_script(DELETE_IDLE_CONSUMER, keys, consumer=name)
        return reply != -1 and replies.count(reply, "XGROUP DELCONSUMER") >= 0

    async def _run_script(self, script: str, keys: list[str], *arguments: Any, consumer: str = "") -> Any:
        consumer = consumer or self._consumer_name
        key_count = 1 + len(keys)
        return await self._execute("EVAL", script, key_count, self._stream, *keys, self._group, consumer, *arguments)

    async def server_time_milliseconds(self) -> int:
        """Return the server's time."""
        return replies.server_time_microseconds(await self._execute("TIME")) // 1000
