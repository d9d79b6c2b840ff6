-- uses: dictionary, consumers_info
-- Returns at most ARGV[2] consumers of the group ARGV[1]. The consumers with the most pending entries come first. Each
-- line contains the first 256 bytes of the name, the number of pending entries and the idle time in milliseconds.
local consumers, failed = consumers_info(KEYS[1], ARGV[1])
if failed then return consumers end
local lines = {}
for _, line in ipairs(consumers) do
  local info = dictionary(line)
  lines[#lines + 1] = {info.name:sub(1, 256), info.pending, info.idle}
end
table.sort(lines, function(a, b) return a[2] > b[2] end)
return {unpack(lines, 1, math.min(#lines, tonumber(ARGV[2])))}
