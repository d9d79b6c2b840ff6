"""Lua scripts that the operator runs. The pods run some of them as well. In all scripts, KEYS[1] is the stream."""

COUNT_AFTER = """
return #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
"""
"""Lua script that counts the entries after the id ARGV[1], at most ARGV[2] entries. The reply contains only the
number."""

DELETE_IDLE_CONSUMER = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return -1 end
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], ARGV[2]) end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""
"""Lua script that deletes the consumer ARGV[2] of the group ARGV[1], and the consumer's fields in the hashes KEYS[2…].
Returns -1 and deletes nothing if the consumer has pending entries. The check and the deletion are one atomic step,
because XGROUP DELCONSUMER would delete pending entries too."""
