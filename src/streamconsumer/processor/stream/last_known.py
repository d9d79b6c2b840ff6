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

from redis.exceptions import ResponseError

from streamconsumer.processor.stream import replies
from streamconsumer.processor.stream.manager import Ask
from streamconsumer.server.keys import POSTPONED, companion

EVERY = timedelta(seconds=1)
"""How often it is written down, by whoever has anything in flight."""

PROBATION = timedelta(milliseconds=1500)
"""Three signs of life, and one that is late."""

MOST = 10_000
"""So many pending ids are written down. When there are more, the note before stays: it is true as well, only older."""

MOST_WALKED = 1000
"""So many entries behind the last note are put back one by one; where there are more, the group begins at the note."""

_COMMON = """
local stream, schedule, beside, group, nobody = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function dictionary(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end
local function is_pending(id) return #redis.call('XPENDING', stream, group, id, id, 1) > 0 end
local function put_back(id, due)
  if #redis.call('XRANGE', stream, id, id) == 0 then
    redis.call('ZREM', schedule, id)
  elseif not is_pending(id) then
    if due then redis.pcall('ZADD', schedule, due, id) end  -- without memory it is due after minIdle
    redis.call('XCLAIM', stream, group, nobody, 0, id, 'FORCE', 'JUSTID')
  end
end
local function restore(known, more, settled)
  local probation = now + ARGV[4] + 0.5
  for id in (known.pending or ''):gmatch('%S+') do
    if not settled[id] then put_back(id, probation) end
  end
  for _, id in ipairs(more) do
    if not settled[id] then put_back(id, probation) end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', schedule, '-inf', '(0')) do put_back(id, probation) end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', schedule, 0, '+inf')) do put_back(id) end
  redis.call('XGROUP', 'CREATECONSUMER', stream, group, nobody)
end
local function is_marked(consumers)
  for _, each in ipairs(consumers) do if dictionary(each).name == nobody then return true end end
  return false
end
"""
"""KEYS: the stream, the schedule of what is postponed, the note. ARGV: the group, this consumer, `~postponed`, the
milliseconds of a probation."""

NOTE = f"""{_COMMON}
local known = dictionary(redis.call('HGETALL', beside))
if known.at and now - known.at < tonumber(ARGV[5]) and now >= tonumber(known.at) then return 0 end
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
if consumers.err then return -1 end
if not is_marked(consumers) then restore(known, {{}}, {{}}) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', schedule, '-inf', '(0', 'LIMIT', 0, 500)) do
  if not is_pending(id) then redis.call('ZREM', schedule, id) end
end
local ids = {{}}
for _, each in ipairs(consumers) do
  local consumer = dictionary(each)
  if consumer.name ~= nobody and consumer.pending > 0 then
    if #ids + consumer.pending > tonumber(ARGV[6]) then return 0 end
    local held = redis.call('XPENDING', stream, group, '-', '+', consumer.pending, consumer.name)
    for _, entry in ipairs(held) do ids[#ids + 1] = entry[1] end
  end
end
for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local found = dictionary(each)
  if found.name == group then
    redis.call('HSET', beside, 'at', now, 'position', found['last-delivered-id'], 'pending', table.concat(ids, ' '))
  end
end
return 1
"""
"""Write it down, unless somebody did so within ARGV[5] milliseconds, or more than ARGV[6] are pending."""

RECREATE = f"""{_COMMON}
local function before(a, b)
  local am, as = a:match('^(%d+)-(%d+)$')
  local bm, bs = b:match('^(%d+)-(%d+)$')
  if am == bm then am, bm = as, bs end
  if #am ~= #bm then return #am < #bm end
  return am < bm
end
local position, begin, last = ARGV[5], ARGV[6], '0-0'
local about = redis.pcall('XINFO', 'STREAM', stream)
if not about.err then last = dictionary(about)['last-generated-id'] end
local known = dictionary(redis.call('HGETALL', beside))
if known.position and before(last, known.position) then known = {{}} end
if before(last, position) then position = '0-0' end
if position ~= '0-0' then begin = position end
local walked = {{}}
if known.position and before(position, known.position) then
  begin = known.position
elseif known.position then
  walked = redis.call('XRANGE', stream, '(' .. known.position, position, 'COUNT', ARGV[7])
  for i, entry in ipairs(walked) do walked[i] = entry[1] end
  if #walked == tonumber(ARGV[7]) then begin, walked = known.position, {{}} end
end
local created = redis.pcall('XGROUP', 'CREATE', stream, group, begin, 'MKSTREAM')
if created.err and not created.err:find('BUSYGROUP', 1, true) then return created end
local settled = {{}}
for i = 9 + ARGV[8], #ARGV do settled[ARGV[i]] = true end
for i = 9, 8 + ARGV[8] do
  local held = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  if not held or held[2] == nobody then
    redis.call('ZREM', schedule, ARGV[i])
    redis.call('XCLAIM', stream, group, ARGV[2], 0, ARGV[i], 'FORCE', 'JUSTID')
  end
end
if not is_marked(redis.call('XINFO', 'CONSUMERS', stream, group)) then restore(known, walked, settled) end
return begin
"""
"""Create the group where it was, unless a peer was faster, with everything pending that was. ARGV[5]: how far this
consumer knows it to have been; ARGV[6]: where to begin when nobody knows; ARGV[7]: how many entries may be put back one
by one; ARGV[8]: how many it has in flight; then these, and what it has settled lately. A stream that ends before a
position has a new life, and its old one is of no account.

Behind what was written down others may have been given entries that this consumer knows nothing of. So those are put
back as well, but not what it has settled itself."""


class LastKnown:
    """The note of one group, by one of its consumers."""

    def __init__(self, ask: Ask, stream: str, group: str, consumer: str) -> None:
        self._ask, self._who = ask, (group, consumer, POSTPONED, replies.milliseconds(PROBATION))
        self._keys = [stream, *(companion(stream, group, what) for what in ("postponed", "last-known"))]

    async def note(self) -> None:
        """Write down what the group knows, if nobody else did so a moment ago. A server without memory refuses: then
        the note before stays."""
        try:
            await self._evaluate(NOTE, replies.milliseconds(EVERY * 0.8), MOST)
        except ResponseError as error:
            if "command not allowed when used memory" not in str(error):  # 6.2 begins errors of scripts alike
                raise

    async def recreate(
        self,
        position: str,
        otherwise: str,
        *,
        in_flight: Sequence[str] = (),
        settled: Sequence[str] = (),
    ) -> str:
        """Create the group again where it was, with what is in flight here pending here, and what anybody held pending,
        but not what was settled here lately. Returns where it begins now."""
        own = (len(in_flight), *in_flight, *settled)
        begin = await self._evaluate(RECREATE, position, otherwise, MOST_WALKED, *own)
        return str(begin.decode())

    async def _evaluate(self, script: str, *arguments: Any) -> Any:
        return await self._ask("EVAL", script, len(self._keys), *self._keys, *self._who, *arguments)
