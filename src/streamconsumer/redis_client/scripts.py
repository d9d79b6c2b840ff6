"""Lua that the operator runs, or pods and operator both. KEYS[1] is the stream."""

COUNT_AFTER = """
return #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
"""
"""How many entries come after an id, counted up to a bound. ARGV[1] is the id, ARGV[2] the bound: nothing but the
number is sent."""

DELETE_IDLE_CONSUMER = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return -1 end
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], ARGV[2]) end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""
"""Deleting a consumer deletes its pending entries with it: only ever in the step that sees that there are none."""
