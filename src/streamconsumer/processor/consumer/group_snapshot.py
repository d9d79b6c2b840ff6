"""Snapshot of a consumer group in a companion key: its last-delivered id and its pending ids.

A group that was destroyed can be restored from the snapshot, even if its consumers die at the same time. XGROUP DESTROY
deletes the position and the pending entries list. A running process restores the entries it has in flight, but a
process that is killed at the same time cannot. The entries of a lost reply are unknown to every process. While entries
are in flight, one consumer therefore saves the position and the pending ids once a second. Every unacknowledged entry
is in the snapshot or after its position. The cost: entries acknowledged since the last snapshot, about one second's
worth, may be handled again after a restore.

Entries that are restored without a known owner are pending with `~postponed` for RESTORE_GRACE. A consumer that has one
in flight takes it back with its next lease renewal; otherwise the entry becomes due. A due time with half a millisecond
distinguishes restored entries from postponed ones.

A restored group has the consumer `~postponed`. A group that another program created does not, and the next snapshot
first restores the missing entries before it saves.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import Execute

SNAPSHOT_INTERVAL = timedelta(seconds=1)
"""Interval at which a consumer with entries in flight saves the snapshot."""

RESTORE_GRACE = timedelta(milliseconds=1500)
"""Time in which a consumer can take back a restored entry: three heartbeats, and a late one."""

MAX_SNAPSHOT_IDS = 10_000
"""Maximum number of pending ids in a snapshot. With more, the previous snapshot stays: still correct, but older."""

MAX_RESTORED = 1000
"""Maximum number of entries after the snapshot that are restored one by one. With more, the group begins at the
position of the snapshot."""

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
"""KEYS: the stream, the schedule of postponed entries, the snapshot. ARGV: the group, this consumer. `mark` returns 1
for a group that has not been restored yet, and an error if there is no group or the server is out of memory. XCLAIM
ignores an entry that the stream no longer has, and `CLAIM_DUE` removes it from the schedule."""

SAVE = f"""{_COMMON}
local saved_at = redis.call('HGET', snapshot, 'at')
local max_age = {replies.to_milliseconds(SNAPSHOT_INTERVAL * 0.8)}
if saved_at and now - saved_at < max_age and now >= tonumber(saved_at) then return 0 end
local new = mark()
if type(new) == 'table' then return 0 end
if new == 1 then restore({{}}) end
local ids = {{}}
for _, line in ipairs(redis.call('XPENDING', stream, group)[4] or {{}}) do
  local name, pending = line[1], tonumber(line[2])
  if name ~= '{POSTPONED_CONSUMER}' then
    if #ids + pending > {MAX_SNAPSHOT_IDS} then return 0 end
    local entries = redis.call('XPENDING', stream, group, '-', '+', pending, name)
    for _, entry in ipairs(entries) do ids[#ids + 1] = entry[1] end
  end
end
for _, line in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info = dictionary(line)
  if info.name == group then
    redis.call('HSET', snapshot, 'at', now, 'position', info['last-delivered-id'], 'pending', table.concat(ids, ' '))
  end
end
redis.call('ZREMRANGEBYSCORE', schedule, '-inf', '(0')
return 1
"""
"""Saves the snapshot, unless one is younger than 0.8 s or more than `MAX_SNAPSHOT_IDS` entries are pending. The
snapshot then contains every entry whose score in the schedule is below zero, so these scores are removed."""

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
  saved = false
  redis.call('HDEL', snapshot, 'at', 'position', 'pending')
end
if before(last, position) then position = '0-0' end
if position ~= '0-0' then begin = position end
local delivered = {{}}
if saved and before(position, saved) then
  begin = saved
elseif saved then
  delivered = redis.call('XRANGE', stream, '(' .. saved, position, 'COUNT', {MAX_RESTORED})
  for i, entry in ipairs(delivered) do delivered[i] = entry[1] end
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
"""Recreates the group at its previous position with its pending entries, unless a peer was faster. ARGV[3]: the last
position that this consumer knows; ARGV[4]: the start if no position is known; then the ids in flight here. A position
after the end of the stream is ignored: the stream was deleted and created again.

Other consumers may have received entries after the snapshot that this consumer does not know. The script restores these
entries as well. Entries that this consumer takes back stay in the schedule, below zero, until a snapshot contains them:
the group may be lost again before that."""


class GroupSnapshot:
    """Saves and restores the snapshot of a group, for one of its consumers."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._group_and_consumer = execute, (group, consumer)
        self._keys = [stream, *(group_key(stream, group, suffix) for suffix in ("postponed", "last-known"))]

    async def save(self) -> None:
        """Save the group state, unless another consumer has just done so.

        The previous snapshot stays if the server is out of memory.
        """
        await self._run_script(SAVE)

    async def restore_group(self, last_delivered_id: str, start_from: str, *, in_flight: Sequence[str] = ()) -> str:
        """Recreate the group at its previous position. Returns the position where it begins.

        Entries `in_flight` become pending with this consumer. Other entries that were pending become pending again.
        """
        begin = await self._run_script(RESTORE, last_delivered_id, start_from, *in_flight)
        return str(begin.decode())

    async def _run_script(self, script: str, *arguments: Any) -> Any:
        return await self._execute("EVAL", script, len(self._keys), *self._keys, *self._group_and_consumer, *arguments)
