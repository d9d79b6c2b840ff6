"""Lua scripts that the operator runs alone or shares with the pods. KEYS[1] is the stream."""

COUNT_AFTER = """
return #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
"""
"""Counts the entries after the id ARGV[1], up to the bound ARGV[2]. The reply is only the number."""

DELETE_IDLE_CONSUMER = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return -1 end
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], ARGV[2]) end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""
"""Deletes the consumer ARGV[2] of the group ARGV[1], and its fields in the hashes KEYS[2…]. Returns -1 if it has
pending entries: XGROUP DELCONSUMER would delete them, so the check and the deletion are one step."""
