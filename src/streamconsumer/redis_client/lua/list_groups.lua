-- uses: call, dictionary
-- Returns 1 if the group ARGV[1] exists, the number of groups, and the first 256 bytes of the names of at most ARGV[2]
-- groups.
local groups, failed = call('XINFO', 'GROUPS', KEYS[1])
if failed then return groups end
local exists, names = 0, {}
for _, line in ipairs(groups) do
  local name = dictionary(line).name
  if name == ARGV[1] then exists = 1 end
  if #names < tonumber(ARGV[2]) then names[#names + 1] = name:sub(1, 256) end
end
return {exists, #groups, names}
