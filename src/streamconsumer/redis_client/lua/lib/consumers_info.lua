-- uses: call, group_info
-- Returns the reply to XINFO CONSUMERS, or an error above MAX_CONSUMERS. The second value is true for an error.
local function consumers_info(stream, name)
  local group, failed = group_info(stream, name)
  if failed then return group, true end
  if group and group.consumers > MAX_CONSUMERS then
    local found = 'ERR found ' .. group.consumers .. ' consumers in the group, expected at most ' .. MAX_CONSUMERS
    return {err = found .. '; delete unused consumers'}, true
  end
  return call('XINFO', 'CONSUMERS', stream, name)
end
