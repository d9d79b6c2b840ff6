-- uses: entry_keys
-- Makes postponed entries due now if they have been idle for ARGV[3] milliseconds and have no due time, for example
-- because the key of the schedule was deleted. Examines PAGE entries after the id ARGV[4]. Returns the last examined
-- id, or an empty text if no entry is left.
local after = ARGV[4] == '' and '-' or '(' .. ARGV[4]
local page = redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], after, '+', PAGE, POSTPONED)
for _, pending in ipairs(page) do
  if tonumber(redis.call('ZSCORE', schedule, pending[1]) or -1) < 0 then redis.call('ZADD', schedule, 0, pending[1]) end
end
return #page == PAGE and page[PAGE][1] or ''
