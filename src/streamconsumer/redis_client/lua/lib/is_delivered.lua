-- uses: entry_keys, group_info, id_before
-- Returns true if the group has delivered an entry. If false, the group will deliver the entry.
local last_delivered
local function is_delivered(id)
  last_delivered = last_delivered or group_info(stream, group)['last-delivered-id']
  return not id_before(last_delivered, id)
end
