-- Returns the id of the first entry of the stream KEYS[1] between the ids ARGV[1] and ARGV[2], or an empty string.
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', 1)
return entries[1] and entries[1][1] or ''
