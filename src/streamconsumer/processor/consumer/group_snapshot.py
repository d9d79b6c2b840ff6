"""What a group knew, kept beside it: should the group be lost, nothing is lost with it, whoever dies meanwhile.

XGROUP DESTROY takes the position and all that is pending. What a process holds it puts back itself; but one that is
killed at the same time does not, and a reply that was lost is known to nobody. So while anything is in flight, once in
a second somebody writes down the group's position and what is pending: all that is not acknowledged stands in there or
comes behind that position. The price is that what was acknowledged since then may be handled again, by about a second.

Everything that is put back without anybody being known to hold it waits for PROBATION with `~postponed`: whoever has it
in flight takes it back with the next sign of life, and otherwise it is due. Half a millisecond in the due time tells
these from what was postponed on purpose.

The consumer `~postponed` is the mark of a group that has been put right: in one that anybody else created it is
missing, and the next note puts back what is missing before it writes anything down.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from streamconsumer.redis_client import replies
from streamconsumer.redis_client.keys import POSTPONED_CONSUMER, group_key
from streamconsumer.redis_client.replies import Execute

SNAPSHOT_INTERVAL = timedelta(seconds=1)
"""How often it is written down, by whoever has anything in flight."""

RESTORE_GRACE = timedelta(milliseconds=1500)
"""Three signs of life, and one that is late."""

MAX_SNAPSHOT_IDS = 10_000
"""So many pending ids are written down. When there are more, the note before stays: it is true as well, only older."""

MAX_RESTORED = 1000
"""So many entries behind the last note are put back one by one; where there are more, the group begins at the note."""

_COMMON = f"""
local stream, schedule, beside, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function dictionary(flat)
  local found = {{}}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
local function mark() return redis.pcall('XGROUP', 'CREATECONSUMER', stream, group, '{POSTPONED_CONSUMER}') end
local function restore(ids)
  for id in (redis.call('HGET', beside, 'pending') or ''):gmatch('%S+') do ids[#ids + 1] = id end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', schedule, '-inf', '+inf')) do ids[#ids + 1] = id end
  for _, id in ipairs(ids) do
    if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
      if tonumber(redis.call('ZSCORE', schedule, id) or -1) < 0 then
        redis.pcall('ZADD', schedule, now + {replies.to_milliseconds(RESTORE_GRACE)} + 0.5, id)  -- else due after minIdle
      end
      redis.call('XCLAIM', stream, group, '{POSTPONED_CONSUMER}', 0, id, 'FORCE', 'JUSTID')
    end
  end
end
"""
"""KEYS: the stream, the schedule of what is postponed, the note. ARGV: the group, this consumer. `mark` returns 1 for a
group that has not been put right yet, and an error if there is no group or the server is out of memory. XCLAIM ignores
an entry that the stream no longer has, and `DUE` removes it from the schedule."""

SAVE = f"""{_COMMON}
local at = redis.call('HGET', beside, 'at')
if at and now - at < {replies.to_milliseconds(SNAPSHOT_INTERVAL * 0.8)} and now >= tonumber(at) then return 0 end
local new = mark()
if type(new) == 'table' then return 0 end
if new == 1 then restore({{}}) end
local ids = {{}}
for _, each in ipairs(redis.call('XPENDING', stream, group)[4] or {{}}) do
  local name, pending = each[1], tonumber(each[2])
  if name ~= '{POSTPONED_CONSUMER}' then
    if #ids + pending > {MAX_SNAPSHOT_IDS} then return 0 end
    local held = redis.call('XPENDING', stream, group, '-', '+', pending, name)
    for _, entry in ipairs(held) do ids[#ids + 1] = entry[1] end
  end
end
for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local found = dictionary(each)
  if found.name == group then
    redis.call('HSET', beside, 'at', now, 'position', found['last-delivered-id'], 'pending', table.concat(ids, ' '))
  end
end
redis.call('ZREMRANGEBYSCORE', schedule, '-inf', '(0')
return 1
"""
"""Write it down, unless a note is younger than 0.8 s, or more than `MOST` are pending. The note holds every entry whose
score in the schedule is below zero, so these scores go."""

RESTORE = f"""{_COMMON}
local function before(a, b)
  local am, as = a:match('^(%d+)-(%d+)$')
  local bm, bs = b:match('^(%d+)-(%d+)$')
  if am == bm then am, bm = as, bs end
  if #am ~= #bm then return #am < #bm end
  return am < bm
end
local position, begin, last = ARGV[3], ARGV[4], '0-0'
local about = redis.pcall('XINFO', 'STREAM', stream)
if not about.err then last = dictionary(about)['last-generated-id'] end
local noted = redis.call('HGET', beside, 'position')
if noted and before(last, noted) then
  noted = false
  redis.call('HDEL', beside, 'at', 'position', 'pending')
end
if before(last, position) then position = '0-0' end
if position ~= '0-0' then begin = position end
local walked = {{}}
if noted and before(position, noted) then
  begin = noted
elseif noted then
  walked = redis.call('XRANGE', stream, '(' .. noted, position, 'COUNT', {MAX_RESTORED})
  for i, entry in ipairs(walked) do walked[i] = entry[1] end
  if #walked == {MAX_RESTORED} then begin, walked = noted, {{}} end
end
local created = redis.pcall('XGROUP', 'CREATE', stream, group, begin, 'MKSTREAM')
if created.err and not created.err:find('BUSYGROUP', 1, true) then return created end
for i = 5, #ARGV do
  local held = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if not held or held[2] == '{POSTPONED_CONSUMER}' then
    redis.pcall('ZADD', schedule, -1, ARGV[i])
    redis.call('XCLAIM', stream, group, ARGV[2], 0, ARGV[i], 'FORCE', 'JUSTID')
  end
end
if mark() == 1 then restore(walked) end
return begin
"""
"""Create the group where it was, unless a peer was faster, with everything pending that was. ARGV[3]: how far this
consumer knows it to have been; ARGV[4]: where to begin when nobody knows; then what it has in flight. A stream that
ends before a position has a new life, and its old one is of no account.

Behind what was written down others may have been given entries that this consumer knows nothing of. So those are put
back as well. What this consumer takes back stays in the schedule, below zero, until a note holds it: the group may be
lost again before."""


class GroupSnapshot:
    """The note of one group, by one of its consumers."""

    def __init__(self, execute: Execute, stream: str, group: str, consumer: str) -> None:
        self._execute, self._group_and_consumer = execute, (group, consumer)
        self._keys = [stream, *(group_key(stream, group, what) for what in ("postponed", "last-known"))]

    async def save(self) -> None:
        """Write down what the group knows, if nobody else did so a moment ago. Where the server is out of memory, the
        note before stays."""
        await self._run_script(SAVE)

    async def restore_group(self, last_delivered_id: str, start_from: str, *, in_flight: Sequence[str] = ()) -> str:
        """Create the group again where it was, with what is in flight here pending here, and what anybody held pending.
        Returns where it begins now."""
        begin = await self._run_script(RESTORE, last_delivered_id, start_from, *in_flight)
        return str(begin.decode())

    async def _run_script(self, script: str, *arguments: Any) -> Any:
        return await self._execute("EVAL", script, len(self._keys), *self._keys, *self._group_and_consumer, *arguments)
