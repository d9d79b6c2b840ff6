-- uses: now_milliseconds
-- Stores in the hash KEYS[1] that the consumer ARGV[1] is active now. Returns the server's time in milliseconds. A
-- server that is out of memory rejects the write.
local now = now_milliseconds()
redis.pcall('HSET', KEYS[1], ARGV[1], math.floor(now / 1000))
return now
