-- uses: entry_keys, call, dictionary, id_before, is_id, forget_claims, group_info
-- Creates the group at its previous position if the group is missing, and records in the snapshot KEYS[6] that its
-- pending entries must be restored. If another program has created the group, the consumer ~postponed is missing, and
-- the pending entries must be restored too. ARGV[3] is the last position that this consumer knows. ARGV[4] is the start
-- position if no position is known. Returns the start position of the group, and 1 if the stream was deleted and
-- created again since this consumer last read from it, otherwise 0.
--
-- The entries between the position in the snapshot and ARGV[3] were delivered after the snapshot. If there are more
-- than MAX_DELIVERED of them, the group starts at the position in the snapshot. The script reads one entry at a time,
-- because Lua copies the values of each entry, and these values may be large.
--
-- The group will deliver the entries after its start position again. The consumer that reads such an entry becomes its
-- owner without a claim, so the records of claims of these entries are deleted.
--
-- If the last id of the stream is smaller than a known position, the stream is new. The companion keys then describe
-- entries of the previous stream, and entries of the new stream may have the same ids.
local snapshot, position, begin, last = KEYS[6], ARGV[3], ARGV[4], '0-0'
local info, failed = call('XINFO', 'STREAM', stream)
if not failed then last = dictionary(info)['last-generated-id'] end
local saved = redis.call('HGET', snapshot, 'position')
saved = is_id(saved) and saved
local is_new_stream = id_before(last, position) or saved and id_before(last, saved)
if is_new_stream then
  saved, position, begin = false, '0-0', '0-0'
  redis.call('DEL', claimed, claimed_before, committed)
  redis.call('HDEL', snapshot, 'at', 'position', 'pending', 'stage', 'cursor', 'until', 'begin')
end
if position ~= '0-0' then begin = position end
local delivered = {}
if saved and id_before(position, saved) then
  begin = saved
elseif saved then
  local after = saved
  while after and #delivered < MAX_DELIVERED do
    local entry = redis.call('XRANGE', stream, '(' .. after, position, 'COUNT', 1)[1]
    after = entry and entry[1]
    delivered[#delivered + 1] = after
  end
  if #delivered == MAX_DELIVERED then begin, delivered = saved, {} end
end
local created, exists = call('XGROUP', 'CREATE', stream, group, begin, 'MKSTREAM')
if exists and not created.err:find('BUSYGROUP', 1, true) then return created end
if redis.call('XGROUP', 'CREATECONSUMER', stream, group, POSTPONED) == 1 then
  local stage, cursor = 'pending', 1
  if #delivered > 0 then stage, cursor = 'delivered', saved end
  local at = group_info(stream, group)['last-delivered-id']
  redis.call('HSET', snapshot, 'stage', stage, 'cursor', cursor, 'until', position, 'begin', at)
end
if not exists then forget_claims(begin) end
return {begin, is_new_stream and 1 or 0}
