-- uses: entry_keys, find_group, id_before
-- Returns true if the group has delivered an entry. If false, the group will deliver the entry.
local last_delivered
local function is_delivered(id)
  last_delivered = last_delivered or find_group(stream, group)['last-delivered-id']
  return not id_before(last_delivered, id)
end
