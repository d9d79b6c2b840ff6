"""Snapshot of a consumer group in a companion key: its last-delivered id and its pending ids.

A group that was destroyed can be restored from the snapshot, even if its consumers die at the same time. XGROUP DESTROY
deletes the group's position and its pending entries list. A running process can restore the entries that it has in
flight, but a killed process cannot. If the reply to a read is lost, no process knows the entries in the reply. While
entries are in flight, one consumer therefore saves the position and the pending ids once a second. Every unacknowledged
entry is listed in the snapshot or comes after the snapshot's position. After a restore, messages that were acknowledged
after the last snapshot may be handled again. The last snapshot is usually at most one second old.

An entry that is restored without a known owner is pending with the pseudo consumer `~postponed` for RESTORE_GRACE. If a
consumer has the entry in flight, the consumer takes the entry back with its next lease renewal. If no consumer takes
the entry back, the entry becomes due, and any consumer may claim it. The due time of a restored entry ends with half a
millisecond (.5), and the due time of a postponed entry does not.

The consumer `~postponed` exists in every group that a processor created or restored. If a group does not have the
consumer `~postponed`, another program created the group. In a group that another program created, a processor restores
the missing entries before it saves the next snapshot.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import Execute
from streamconsumer.redis_client.scripts import MAX_CONSUMERS

SNAPSHOT_INTERVAL = timedelta(seconds=1)
"""Interval at which a consumer with entries in flight saves the snapshot."""

RESTORE_GRACE = timedelta(milliseconds=1500)
"""Time in which a consumer can take back a restored entry: three heartbeat intervals, plus a margin for delays."""

MAX_SNAPSHOT_IDS = 10_000
"""Maximum number of pending ids in a snapshot. If more entries are pending, the previous snapshot is kept, which is
older but still correct."""

MAX_RESTORED = 1000
"""Maximum number of entries delivered after the snapshot that are restored one by one. If more entries were delivered,
the restored group begins at the snapshot's position."""

_COMMON = f"""
local stream, schedule, snapshot, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function dictionary(flat)
  local values = {{}}
  for i = 1, #flat, 2 do values[flat[i]] = flat[i + 1] end
  return values
end
local function mark() return redis.pcall('XGROUP', 'CREATECONSUMER', stream, group, '{POSTPONED_CONSUMER}') end
local function restore(ids)
  for id in (redis.call('HGET', snapshot, 'pending') or ''):gmatch('%S+') do ids[#ids + 1] = id end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', schedule, '-inf', '+inf')) do ids[#ids + 1] = id end
  for _, id in ipairs(ids) do
    if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
      if tonumber(redis.call('ZSCORE', schedule, id) or -1) < 0 then
        redis.pcall('ZADD', schedule, now + {replies.to_milliseconds(RESTORE_GRACE)} + 0.5, id)  -- or after minIdle
      end
      redis.call('XCLAIM', stream, group, '{POSTPONED_CONSUMER}', 0, id, 'FORCE', 'JUSTID')
    end
  end
end
"""
"""First part of the Lua scripts `SAVE` and `RESTORE`. KEYS: the stream, the schedule of postponed entries, the
snapshot. ARGV: the group, this consumer. `mark` creates the consumer `~postponed` and returns 1 if `~postponed` was
missing. If `mark` returns 1, the caller must restore the entries. `mark` returns an error if there is no group or the
server is out of memory. XCLAIM ignores an entry that is no longer in the stream; `CLAIM_DUE` later removes such an
entry from the schedule."""

SAVE = f"""{_COMMON}
local saved_at = redis.call('HGET', snapshot, 'at')
local max_age = {replies.to_milliseconds(SNAPSHOT_INTERVAL * 0.8)}
if saved_at and now - saved_at < max_age and now >= tonumber(saved_at) then return 0 end
local new = mark()
if type(new) == 'table' then return 0 end
if new == 1 then restore({{}}) end
local ids, position = {{}}, nil
for _, line in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info = dictionary(line)
  if info.name == group then
    if info.consumers > {MAX_CONSUMERS} then return 0 end
    position = info['last-delivered-id']
  end
end
for _, line in ipairs(redis.call('XPENDING', stream, group)[4] or {{}}) do
  local name, pending = line[1], tonumber(line[2])
  if name ~= '{POSTPONED_CONSUMER}' then
    if #ids + pending > {MAX_SNAPSHOT_IDS} then return 0 end
    local entries = redis.call('XPENDING', stream, group, '-', '+', pending, name)
    for _, entry in ipairs(entries) do ids[#ids + 1] = entry[1] end
  end
end
redis.call('HSET', snapshot, 'at', now, 'position', position, 'pending', table.concat(ids, ' '))
redis.call('ZREMRANGEBYSCORE', schedule, '-inf', '(0')
return 1
"""
"""Lua script that saves the snapshot if the previous snapshot is at least 0.8 s old, at most `MAX_SNAPSHOT_IDS`
entries are pending, and the group has at most `MAX_CONSUMERS` consumers. The script removes every entry with a score
below zero from the schedule, because the new snapshot contains these entries."""

RESTORE = f"""{_COMMON}
local function before(a, b)
  local am, as = a:match('^(%d+)-(%d+)$')
  local bm, bs = b:match('^(%d+)-(%d+)$')
  if am == bm then am, bm = as, bs end
  if #am ~= #bm then return #am < #bm end
  return am < bm
end
local position, begin, last = ARGV[3], ARGV[4], '0-0'
local stream_info = redis.pcall('XINFO', 'STREAM', stream)
if not stream_info.err then last = dictionary(stream_info)['last-generated-id'] end
local saved = redis.call('HGET', snapshot, 'position')
if saved and before(last, saved) then
  saved, begin = false, '0-0'
  redis.call('HDEL', snapshot, 'at', 'position', 'pending')
end
if before(last, position) then position = '0-0' end
if position ~= '0-0' then begin = position end
local delivered = {{}}
if saved and before(position, saved) then
  begin = saved
elseif saved then
  local after = saved
  while after and #delivered < {MAX_RESTORED} do
    local entry = redis.call('XRANGE', stream, '(' .. after, position, 'COUNT', 1)[1]
    after = entry and entry[1]
    delivered[#delivered + 1] = after
  end
  if #delivered == {MAX_RESTORED} then begin, delivered = saved, {{}} end
end
local created = redis.pcall('XGROUP', 'CREATE', stream, group, begin, 'MKSTREAM')
if created.err and not created.err:find('BUSYGROUP', 1, true) then return created end
for i = 5, #ARGV do
  local pending = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if not pending or pending[2] == '{POSTPONED_CONSUMER}' then
    redis.pcall('ZADD', schedule, -1, ARGV[i])
    redis.call('XCLAIM', stream, group, ARGV[2], 0, ARGV[i], 'FORCE', 'JUSTID')
  end
end
if mark() == 1 then restore(delivered) end
return begin
"""
"""Lua script that recreates the group at its previous position with its pending entries, if no other consumer has
recreated it yet. ARGV[3] is the last position that this consumer knows. ARGV[4] is the start position if no position is
known. ARGV[5…] contains the ids of the entries in flight in this process. The script ignores a position after the end
of the stream: such a position means that the stream was deleted and created again. If the snapshot has such a position,
the group begins at the first entry.

The script also restores entries that other consumers received after the snapshot, because this consumer does not know
their ids. Entries that this consumer takes back stay in the schedule with a score below zero until a snapshot contains
them, because the group may be lost again before the next snapshot. The script reads one entry at a time, because Lua
copies the values of each entry, and these values may be large."""


class GroupSnapshot:
    """Saves and restores the snapshot of a group, for one of the group's consumers."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._group_and_consumer = execute, (group, consumer)
        self._keys = [stream, *(group_key(stream, group, suffix) for suffix in ("postponed", "last-known"))]

    async def save(self) -> None:
        """Save the state of the group if no consumer has saved it within the last 0.8 s.

        If the server is out of memory, the previous snapshot is kept.
        """
        await self._run_script(SAVE)

    async def restore_group(self, last_delivered_id: str, start_from: str, *, in_flight: Sequence[str] = ()) -> str:
        """Recreate the group at its previous position. Returns the position where the new group begins.

        The entries `in_flight` become pending with this consumer. Other entries that were pending become pending with
        the pseudo consumer `~postponed`.
        """
        begin = await self._run_script(RESTORE, last_delivered_id, start_from, *in_flight)
        return replies.text(begin, "the script that recreates the group")

    async def _run_script(self, script: str, *arguments: Any) -> Any:
        return await self._execute("EVAL", script, len(self._keys), *self._keys, *self._group_and_consumer, *arguments)
