-- uses: dictionary, consumers_info
-- Deletes the group if no consumer is alive.
--
-- KEYS: the stream, the group's companion key `consumers`, the group's other companion keys. ARGV: the group,
-- `~postponed`, the seconds after which a registration expires, `minIdle` in milliseconds. Returns three values. Value
-- 1 contains the names of at most 100 live consumers, each truncated to 256 bytes. Value 2 is 1 if the group existed,
-- otherwise 0. Value 3 is the number of deleted companion keys.
--
-- Redis runs no other command while the script runs. The script therefore returns an error if the group has more than
-- MAX_CONSUMERS consumers or more than MAX_REGISTRATIONS registrations.
local stream, group, postponed = KEYS[1], ARGV[1], ARGV[2]
local absent, min_idle = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = tonumber(redis.call('TIME')[1])
local consumers, failed = consumers_info(stream, group)
if failed and not consumers.err:find('^NOGROUP') and not consumers.err:find('^ERR no such key') then return consumers end
local exists, alive, registrations = not failed, {}, redis.call('HLEN', KEYS[2])
if registrations > MAX_REGISTRATIONS then
  local found = 'ERR found ' .. registrations .. ' registrations of consumers, expected at most ' .. MAX_REGISTRATIONS
  return {err = found .. '; delete ' .. KEYS[2] .. ', wait until live consumers have registered again, and retry'}
end
local members = redis.call('HGETALL', KEYS[2])
for i = 1, #members, 2 do
  local age = now - (tonumber(members[i + 1]) or now)
  if not (age >= absent) then alive[#alive + 1] = members[i] end
end
for _, each in ipairs(consumers) do
  local consumer = dictionary(each)
  if consumer.name ~= postponed and consumer.idle < min_idle then alive[#alive + 1] = consumer.name end
end
local keys = 0
if #alive == 0 then
  keys = redis.call('UNLINK', KEYS[2])  -- contains only dead consumers; a missing permission fails here
  if exists then redis.call('XGROUP', 'DESTROY', stream, group) end
  keys = keys + redis.call('UNLINK', unpack(KEYS, 3))
end
local names = {}
for i = 1, math.min(#alive, 100) do names[i] = alive[i]:sub(1, 256) end
return {names, exists and 1 or 0, keys}
