-- uses: entry_keys, create_postponed, dictionary, group_info, now_milliseconds
-- Saves the snapshot in KEYS[6] if the previous snapshot is at least MIN_AGE milliseconds old, at most MAX_SNAPSHOT_IDS
-- entries are pending, and the group has at most MAX_CONSUMERS consumers. The script removes each entry with a score
-- below zero from the schedule, because the new snapshot contains these entries. Returns `restoring` if entries of a
-- lost group must be restored first, `recent` if the previous snapshot is younger, otherwise `saved` or `skipped`.
--
-- Each group that a processor created or restored has the consumer ~postponed. If ~postponed is missing, another
-- program created the group.
local snapshot, now = KEYS[6], now_milliseconds()
local format = tonumber(redis.call('HGET', snapshot, 'format')) or 0
if format > FORMAT then return {err = 'NEWERFORMAT ' .. format} end
if redis.call('HGET', snapshot, 'stage') then return 'restoring' end
local saved_at = tonumber(redis.call('HGET', snapshot, 'at'))
if saved_at and now - saved_at < MIN_AGE and now >= saved_at then return 'recent' end
local created = create_postponed(snapshot)
if type(created) == 'table' then return 'skipped' end  -- the group is missing, or the server is out of memory
if created == 1 then return 'restoring' end
local info = group_info(stream, group)
local lines = redis.call('XPENDING', stream, group)[4] or {}
if info.consumers > MAX_CONSUMERS or #lines > MAX_OWNERS then return 'skipped' end
local ids = {}
for _, line in ipairs(lines) do
  local name, pending = line[1], tonumber(line[2])
  if name ~= POSTPONED then
    if #ids + pending > MAX_SNAPSHOT_IDS then return 'skipped' end
    local entries = redis.call('XPENDING', stream, group, '-', '+', pending, name)
    for _, entry in ipairs(entries) do ids[#ids + 1] = entry[1] end
  end
end
local position = info['last-delivered-id']
redis.call('HSET', snapshot, 'format', FORMAT, 'at', now, 'position', position, 'pending', table.concat(ids, ' '))
redis.call('ZREMRANGEBYSCORE', schedule, '-inf', '(0')
return 'saved'
