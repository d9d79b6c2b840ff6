-- uses: entry_keys, bounded_entries, record_claim
-- Claims pending entries. ARGV: group, consumer, minimum idle time in milliseconds, `page_bytes`, `entry_bytes`, then
-- alternating ids and delivery counts. Returns the number of examined entries, the number of trimmed entries, and the
-- claimed entries. Trimmed entries are acknowledged, because such entries can never be handled.
--
-- An entry that this consumer already owns is claimed regardless of its idle time, because the reply to an earlier claim
-- of the entry was lost.
local min_idle, page_bytes, entry_bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local examined, trimmed = 0, 0
for i = 6, #ARGV, 2 do
  local id, deliveries = ARGV[i], ARGV[i + 1]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local function claim()
    local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
    local is_mine = pending and pending[2] == me
    local arguments = {stream, group, me, is_mine and 0 or min_idle, id, 'RETRYCOUNT', deliveries, 'JUSTID'}
    if #redis.call('XCLAIM', unpack(arguments)) == 0 then return false end
    if not is_mine then record_claim(id) end
    return true
  end
  if not entry then
    trimmed = trimmed + redis.call('XACK', stream, group, id)
  elseif not add(id, entry[2], deliveries, page_bytes, entry_bytes, claim) then
    break
  end
  examined = examined + 1
end
return {examined, trimmed, entries}
