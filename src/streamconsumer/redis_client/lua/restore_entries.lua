-- uses: entry_keys, create_postponed, now_milliseconds, is_id, id_before, is_in_stream
-- Restores one page of the entries of a lost group. Returns 1 if more entries must be restored, otherwise 0.
--
-- Meanwhile, consumers may read, renew, settle and claim entries. No snapshot is saved until all entries are restored.
-- The three stages are the entries that were delivered after the snapshot, the entries in the snapshot, and the entries
-- in the schedule. An entry without a due time becomes due after GRACE milliseconds, unless its consumer takes it back.
--
-- The group delivers the entries after its start position `begin` again. The due time of such an entry is deleted,
-- because the entry would otherwise be claimed once more after the consumer that reads it has settled it. The due time
-- of an entry that the stream does not contain is kept, because the stream may only be renamed for a while.
--
-- A server that is out of memory permits XCLAIM, and permits ZADD only after another write of the script. A restored
-- entry without a due time would be lost if the group were lost again, because snapshots contain no postponed entries.
local snapshot, ids, done = KEYS[6], {}, true
local stage, cursor = redis.call('HGET', snapshot, 'stage'), redis.call('HGET', snapshot, 'cursor')
if not stage then return 0 end
if create_postponed(snapshot) == 1 then return 1 end  -- another program has created the group meanwhile
if stage == 'delivered' then
  local last = redis.call('HGET', snapshot, 'until')
  while #ids < PAGE and is_id(cursor) and is_id(last) do
    local entry = redis.call('XRANGE', stream, '(' .. cursor, last, 'COUNT', 1)[1]
    if not entry then break end
    cursor = entry[1]
    ids[#ids + 1] = cursor
  end
  done = #ids < PAGE
elseif stage == 'pending' then
  local text, at = redis.call('HGET', snapshot, 'pending') or '', tonumber(cursor)
  while #ids < PAGE do
    local from, to = text:find('%S+', at)
    if not from then break end
    ids[#ids + 1], at = text:sub(from, to), to + 1
  end
  done, cursor = #ids < PAGE, at
else
  local is_cursor = (cursor or ''):find('^%d+$') and #cursor < 20
  local page = redis.call('ZSCAN', schedule, is_cursor and cursor or '0', 'COUNT', PAGE)
  for i = 1, #page[2], 2 do ids[#ids + 1] = page[2][i] end
  done, cursor = page[1] == '0', page[1]
end
local begin, due = redis.call('HGET', snapshot, 'begin'), now_milliseconds() + GRACE + 0.5
local function restore(id)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  local has_due_time = tonumber(redis.call('ZSCORE', schedule, id) or -1) >= 0
  if is_id(begin) and id_before(begin, id) and is_in_stream(id) then
    if has_due_time and not (pending and pending[2] == POSTPONED) then redis.call('ZREM', schedule, id) end
  elseif not pending then
    redis.call('XCLAIM', stream, group, POSTPONED, 0, id, 'FORCE', 'JUSTID')
    if not has_due_time then redis.pcall('ZADD', schedule, due, id) end
  end
end
for _, id in ipairs(ids) do
  if is_id(id) then restore(id) end
end
if not done then
  redis.call('HSET', snapshot, 'cursor', cursor)
elseif stage == 'schedule' then
  redis.call('HDEL', snapshot, 'stage', 'cursor', 'until', 'begin')
  return 0
elseif stage == 'delivered' then
  redis.call('HSET', snapshot, 'stage', 'pending', 'cursor', 1)
else
  redis.call('HSET', snapshot, 'stage', 'schedule', 'cursor', 0)
end
return 1
