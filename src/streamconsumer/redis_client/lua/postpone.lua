-- uses: entry_keys, create_postponed, entry_state, is_in_stream, now_milliseconds
-- Moves entries to the pseudo consumer ~postponed until they are due. For each entry, ARGV[3…] contains the id, the
-- delivery count and the delay in milliseconds. Returns for each entry `done`, `lost` if another consumer owns the
-- entry or the entry is settled, or `trimmed`. The script stores the due time first, because a server without free
-- memory rejects only this write. KEYS[6] is the snapshot.
local now, outcomes, has_postponed = now_milliseconds(), {}, false
for i = 3, #ARGV, 3 do
  local id, outcome = ARGV[i], 'done'
  local state = entry_state(id)
  if state == 'peer' or state == 'settled' then
    outcome = 'lost'
  elseif state == 'orphaned' and not is_in_stream(id) then
    outcome = 'trimmed'
  elseif state ~= 'postponed' then
    has_postponed = has_postponed or create_postponed(KEYS[6])
    redis.call('ZADD', schedule, now + ARGV[i + 2], id)
    redis.call('XCLAIM', stream, group, POSTPONED, 0, id, 'RETRYCOUNT', ARGV[i + 1], 'FORCE', 'JUSTID')
  end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
