-- uses: dictionary, call, group_info, consumers_info, find_registration
-- Returns the registration of the consumer ARGV[2] of the group ARGV[1] in KEYS[2], its number of pending entries, and
-- its idle time in milliseconds, which is very long if there is no such consumer. In a group with too many consumers,
-- the idle time is that of its oldest entries.
local registration = find_registration(KEYS[2], ARGV[2]) or ''
local consumers, failed = consumers_info(KEYS[1], ARGV[1])
if not failed then
  for _, line in ipairs(consumers) do
    local info = dictionary(line)
    if info.name == ARGV[2] then return {registration, info.pending, info.idle} end
  end
end
local pending, idle = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 100, ARGV[2]), 1e12
for _, entry in ipairs(pending) do idle = math.min(idle, entry[3]) end
return {registration, #pending, idle}
