-- uses: entry_keys, call, bounded_entries, leave_schedule, record_claims
-- Claims pending entries of the consumer ARGV[4]. ARGV: group, consumer, minimum idle time in milliseconds, owner, its
-- registration, the server's run id, the maximum number of entries to claim, `page_bytes`, `entry_bytes`, then
-- alternating ids and delivery counts. Returns the number of examined entries, the number of trimmed entries, and the
-- claimed entries. Trimmed entries are acknowledged, because such entries can never be handled.
--
-- The arguments contain the registration and the run id that were read when the owner was found dead. If one of the two
-- values has changed, nothing is claimed. Both are empty if the idle time alone permits the claim.
--
-- An entry that this consumer already owns is claimed regardless of its idle time, because the reply to an earlier
-- claim of the entry was lost. If another program has claimed a postponed entry, the schedule still contains the entry.
local min_idle, owner, registration, run_id = tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local limit, page_bytes, entry_bytes = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local examined, trimmed, claims = 0, 0, {}
if registration ~= '' then
  local info, failed = call('INFO', 'server')  -- a managed service may refuse INFO in a script
  local is_same_server = not failed and info:match('run_id:(%w+)') == run_id
  if not is_same_server or redis.call('HGET', KEYS[#KEYS], owner) ~= registration then return {0, 0, {}} end
end
for i = 10, #ARGV, 2 do
  if #entries == limit then break end
  local id, deliveries = ARGV[i], ARGV[i + 1]
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  local is_mine = pending and pending[2] == me
  local is_free = is_mine or pending and pending[2] == owner and pending[3] >= min_idle
  local entry = is_free and redis.call('XRANGE', stream, id, id)[1]
  local function claim()
    redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
    leave_schedule(id)
    if not is_mine then claims[#claims + 1] = id end
  end
  if entry then
    if not add(id, entry[2], deliveries, page_bytes, entry_bytes, claim) then break end
  elseif is_free then
    trimmed = trimmed + redis.call('XACK', stream, group, id)
  end
  examined = examined + 1
end
record_claims(claims)
return {examined, trimmed, entries}
