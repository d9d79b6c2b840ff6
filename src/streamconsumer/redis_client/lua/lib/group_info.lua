-- uses: dictionary, call
-- Returns the line of XINFO GROUPS for a group, or false. The second value is true if the first value is an error.
local function group_info(stream, name)
  local groups, failed = call('XINFO', 'GROUPS', stream)
  if failed then return groups, true end
  for _, line in ipairs(groups) do
    local info = dictionary(line)
    if info.name == name then return info, false end
  end
  return false, false
end
