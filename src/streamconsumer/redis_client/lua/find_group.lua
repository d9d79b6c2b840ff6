-- uses: group_info
-- Returns the last delivered id and the number of consumers of the group ARGV[1], or nil if the group does not exist.
local group, failed = group_info(KEYS[1], ARGV[1])
if failed or not group then return group end
return {group['last-delivered-id'], group.consumers}
