-- uses: entry_keys, find_group, id_before
-- Returns true if the group has delivered an entry. If false, the group will deliver the entry.
local function is_delivered(id)
  local info = find_group(stream, group)
  return info and not id_before(info['last-delivered-id'], id)
end
