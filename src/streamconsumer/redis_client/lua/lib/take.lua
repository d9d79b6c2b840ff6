-- uses: entry_keys
-- Makes an entry that is orphaned or restored pending with `me`. Until a snapshot contains the entry, the entry stays in
-- the schedule with a score below zero, because the group may be lost again. XCLAIM ignores a trimmed entry.
local function take(id, ...)
  redis.pcall('ZADD', schedule, -1, id)
  redis.call('XCLAIM', stream, group, me, 0, id, 'FORCE', 'JUSTID', ...)
end
