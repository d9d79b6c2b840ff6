-- uses: dictionary
-- Returns the number of groups of the stream KEYS[1], and three values for each group if there are at most MAX_GROUPS:
-- 1 for the group ARGV[1] and 0 for other groups, the last delivered id, and the smallest pending id, which is empty if
-- no entry is pending.
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
local lines = {}
if #groups > MAX_GROUPS then return {#groups, lines} end
for _, line in ipairs(groups) do
  local info = dictionary(line)
  local pending = redis.call('XPENDING', KEYS[1], info.name, '-', '+', 1)[1]
  lines[#lines + 1] = {info.name == ARGV[1] and 1 or 0, info['last-delivered-id'], pending and pending[1] or ''}
end
return {#groups, lines}
