-- uses: entry_keys
-- Returns the state of a delivered entry for the consumer `me`:
--   mine       pending with `me`
--   peer       pending with another consumer, or settled by another consumer that claimed the entry from `me`
--   postponed  pending with ~postponed until its due time
--   restored   pending with ~postponed because the group was lost, and no consumer has claimed the entry since
--   settled    not pending, and a script has written the effects or the dead letter of the entry
--   orphaned   not pending, although no other consumer has claimed the entry: the group or a consumer was deleted, the
--              entry was trimmed, or another program acknowledged the entry
-- `claimed` and `claimed_before` contain the consumer that claimed an entry last. The due time of a restored entry ends
-- with .5.
local function entry_state(id)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  local owner = pending and pending[2]
  if owner == me then return 'mine' end
  if owner and owner ~= POSTPONED then return 'peer' end
  if owner and tonumber(redis.call('ZSCORE', schedule, id) or 0) % 1 == 0 then return 'postponed' end
  local claimer = redis.call('HGET', claimed, id) or redis.call('HGET', claimed_before, id)
  if claimer and claimer ~= me then return 'peer' end
  if owner then return 'restored' end
  return redis.call('ZSCORE', committed, id) and 'settled' or 'orphaned'
end
