-- uses: call, group_info
-- Returns the state of the group ARGV[1] in three parts: group, stream and pending entries. If the command for a part
-- fails, the part is an error.
--
-- The first part contains the group's number of pending entries, number of consumers, last delivered id, number of
-- entries read, and lag. An unknown number is -1. The first part is nil if the group does not exist.
--
-- The second part is the length of the stream.
--
-- The third part contains the smallest pending id, the number of entries that consumers other than ARGV[2] own, and a
-- text with consumer names. Each name is followed by the consumer's number of pending entries. The text contains at
-- most ARGV[3] consumers that are named like pods. The third part is nil if the first part is not a group. If the group
-- has more than MAX_CONSUMERS consumers, the number contains all pending entries, and the text is empty.
local info, failed = group_info(KEYS[1], ARGV[1])
local length = call('XLEN', KEYS[1])
if failed or not info then return {info, length, false} end
local group = {info.pending, info.consumers, info['last-delivered-id'], info['entries-read'] or -1, info.lag or -1}
if info.consumers > MAX_CONSUMERS then
  local entries, pending_failed = call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)
  if pending_failed then return {group, length, entries} end
  return {group, length, {entries[1] and entries[1][1] or false, info.pending, ''}}
end
local summary, pending_failed = call('XPENDING', KEYS[1], ARGV[1])
if pending_failed then return {group, length, summary} end
local owned, names = 0, {}
for _, line in ipairs(summary[4] or {}) do
  local name, count = line[1], tonumber(line[2])
  if name ~= ARGV[2] then
    owned = owned + count
    if #names < 2 * ARGV[3] and #name <= 63 and name:find('^[a-z0-9.-]+$') then
      names[#names + 1] = name
      names[#names + 1] = line[2]
    end
  end
end
return {group, length, {summary[2], owned, table.concat(names, ' ')}}
