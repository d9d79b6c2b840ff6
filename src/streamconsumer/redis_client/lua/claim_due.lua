-- uses: entry_keys, bounded_entries, record_claims, leave_schedule, create_postponed, is_delivered, is_id, now_milliseconds
-- Claims postponed entries that are due. ARGV[3…]: the maximum numbers of entries to examine and to claim, `page_bytes`
-- and `entry_bytes`. Returns the number of trimmed entries, the claimed entries, and the number of entries that
-- are no longer due.
--
-- Claimed entries stay in the schedule with a score below zero until a snapshot is saved. If the reply to the claim is
-- lost and the group is lost afterwards, only the schedule still contains the claimed entries. KEYS[6] is the snapshot.
-- Until all entries of a lost group are restored, an entry that is not pending may still have to be restored. Later, an
-- entry that is not pending was acknowledged: by another program, or by a consumer that read it because the group was
-- moved to an earlier position.
local limit, page_bytes, entry_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now, trimmed, done, claims = now_milliseconds(), 0, 0, {}
local is_restoring = redis.call('HGET', KEYS[6], 'stage')
for _, id in ipairs(redis.call('ZRANGEBYSCORE', schedule, 0, now, 'LIMIT', 0, ARGV[3])) do
  if #entries == limit then break end
  local is_valid = is_id(id)
  local pending = is_valid and redis.call('XPENDING', stream, group, id, id, 1)[1]
  local is_free = pending and pending[2] == POSTPONED
  if is_valid and not pending then  -- lost with the group, or acknowledged by the consumer that it was restored for
    local is_restored = redis.call('ZSCORE', schedule, id) % 1 ~= 0
    is_free = not is_restored and is_delivered(id) and not redis.call('ZSCORE', committed, id)
  end
  local entry = is_free and redis.call('XRANGE', stream, id, id)[1]
  if entry and not pending then
    is_restoring = is_restoring or create_postponed(KEYS[6]) ~= 0
    is_free, entry = is_restoring, is_restoring and entry
  end
  local deliveries = pending and pending[4] or 0
  local function claim()
    redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID')
    leave_schedule(id)
    claims[#claims + 1] = id
  end
  if entry then
    if not add(id, entry[2], deliveries, page_bytes, entry_bytes, claim) then break end
  elseif is_free then
    trimmed = trimmed + 1
    redis.call('ZREM', schedule, id)
    redis.call('XACK', stream, group, id)
  elseif pending then
    leave_schedule(id)
  elseif is_valid and is_restoring then
    done = done - 1  -- stays due until it is restored
  else
    redis.call('ZREM', schedule, id)
  end
  done = done + 1
end
record_claims(claims)
return {trimmed, entries, done}
