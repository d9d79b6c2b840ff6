-- uses: entry_keys
-- Makes an entry that is orphaned or restored pending with `me`. Until a snapshot contains the entry, the entry stays in
-- the schedule with a score below zero, because the group may be lost again. XCLAIM ignores a trimmed entry. A server
-- that is out of memory permits XCLAIM, and permits ZADD only after another write of the script.
local function take(id, ...)
  redis.call('XCLAIM', stream, group, me, 0, id, 'FORCE', 'JUSTID', ...)
  redis.pcall('ZADD', schedule, -1, id)
end
