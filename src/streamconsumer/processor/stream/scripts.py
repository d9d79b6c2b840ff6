"""Lua that Redis runs in one step: whose an entry is, and what is done about it, must not fall apart.

KEYS[1] is the stream, ARGV[1] the group, ARGV[2] this consumer.
"""

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

BEGIN = """
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

RECOUNT = """
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

DUE = """
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

ADOPT = """
for _, held in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], '-', '+', 100, ARGV[3])) do
  if tonumber(redis.call('ZSCORE', KEYS[2], held[1]) or -1) < 0 then redis.call('ZADD', KEYS[2], 0, held[1]) end
end
return 0
"""
"""Postponed entries whose due time was lost, with a key that was deleted or evicted, are due now."""
