-- Returns the id of the last entry of the stream KEYS[1], or an empty string. The reply does not contain the fields of
-- the entry, which may be large.
local entries = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return entries[1] and entries[1][1] or ''
