-- Counts the entries after the id ARGV[1], at most ARGV[2] entries. The reply contains only the number of entries. The
-- reply is ARGV[2] if more entries may follow.
--
-- XRANGE copies the values into the script. The script therefore reads about 1 MB at a time, and stops after 16 MB.
local count, limit, page, bytes, after = 0, tonumber(ARGV[2]), 1, 0, ARGV[1]
while count < limit and bytes < 16777216 do
  local entries = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', math.min(page, limit - count))
  count = count + #entries
  if #entries < page then return count end
  after = entries[#entries][1]
  local size = 1
  for _, entry in ipairs(entries) do
    for _, part in ipairs(entry[2]) do size = size + #part end
  end
  bytes = bytes + size
  page = math.max(1, math.min(2 * page, 1000, math.floor(1048576 * #entries / size)))
end
return limit
