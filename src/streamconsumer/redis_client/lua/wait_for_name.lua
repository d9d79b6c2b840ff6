-- Adds the token ARGV[4] of a waiting process to the registration ARGV[3] of the consumer ARGV[2], so that the process
-- that has the name can report the conflict. KEYS[2] contains the registrations.
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[3] then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3] .. ' ' .. ARGV[4])
  redis.call('HSET', KEYS[2], '', (tonumber(redis.call('HGET', KEYS[2], '')) or 0) + 1)
end
