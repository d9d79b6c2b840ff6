"""Lua that pods and operator both run. KEYS[1] is the stream, ARGV[1] the group."""

LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return -1 end
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], ARGV[2]) end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""
"""Deleting a consumer deletes its pending entries with it: only ever in the step that sees that there are none."""
