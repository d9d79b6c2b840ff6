-- uses: find_registration
-- Stores the registration ARGV[4] of the consumer ARGV[2], unless a process with another token than ARGV[3] has
-- registered this name. A registration equal to ARGV[5] is replaced. KEYS[2] contains the registrations. Returns the
-- previous registration if the name belongs to another process or another process waits for it, otherwise ARGV[4].
local name, token, value, judged = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local found = find_registration(KEYS[2], name)
local owner = found and found:match('^%S+ %S+ (%S+)')
if found and owner ~= token and found ~= judged then return found end
if found ~= value then
  redis.call('HSET', KEYS[2], name, value)
  redis.call('HSET', KEYS[2], '', (tonumber(redis.call('HGET', KEYS[2], '')) or 0) + 1)
end
return owner == token and found or value
