-- uses: entry_keys
-- Makes an entry of the schedule no longer due, because a consumer owns the entry. Until a snapshot contains the entry,
-- it stays in the schedule with a score below zero. Does nothing if the schedule does not contain the entry.
local function leave_schedule(id)
  local stored = redis.pcall('ZADD', schedule, 'XX', 'LT', -1, id)
  if type(stored) == 'table' then redis.call('ZREM', schedule, id) end  -- out of memory
end
