"""Lua that Redis runs in one step: whose an entry is, and what is done about it, must not fall apart.

KEYS[1] is the stream, ARGV[1] the group, ARGV[2] this consumer; entry ids come last.
"""

RENEW = """
local lost, mine = {}, {}
local function pending(id, ...) return #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ...) == 1 end
for i = 3, #ARGV do
  local id = ARGV[i]
  if not pending(id, ARGV[2]) and pending(id) then lost[#lost + 1] = id else mine[#mine + 1] = id end
end
if #mine > 0 then
  mine[#mine + 1] = 'FORCE'  -- in the table: anything behind unpack() would cut it to one
  mine[#mine + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(mine))
end
return lost
"""
"""A sign of life for the entries that are not another consumer's. Returns those that are. One that is nobody's was
pending with a group that is gone and was created again by a peer: it is put back, if the stream still has it. (Or a
peer took it over and acknowledged it already: then it has been handled twice anyway.) A renewal that did not ask
first would steal entries back from their new owner."""

RESTORE = """
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1) == 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'FORCE', 'JUSTID')
  end
end
return 0
"""
"""Puts back what is nobody's, for entries that must be somebody's: see RENEW."""

RELEASE = """
for i = 4, #ARGV do
  local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if #held == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i],
               'IDLE', ARGV[3], 'RETRYCOUNT', math.max(held[1][4] - 1, 0), 'JUSTID')
  end
end
return 0
"""
"""Entries that were read and not begun look idle for ARGV[3] milliseconds, so that the next claim of a peer takes
them; the delivery that came to nothing is not counted."""

LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0
then return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return -1
"""
"""Deleting a consumer deletes its pending entries with it: only ever in the step that sees that there are none."""
