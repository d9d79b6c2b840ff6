-- uses: entry_keys, entry_state, is_in_stream, is_lost, take
-- Stores the delivery count ARGV[4] of the entry ARGV[3] before an attempt starts, so that the count survives a crash
-- of this process. Returns `done` if the attempt may start, `lost` if another consumer owns the entry or
-- the entry is settled, and `trimmed` if the stream no longer contains the entry.
local id, deliveries = ARGV[3], ARGV[4]
local state = entry_state(id)
if is_lost(state) then return 'lost' end
if not is_in_stream(id) then
  redis.call('XACK', stream, group, id)
  return 'trimmed'
end
if state == 'mine' then
  redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
else
  take(id, 'RETRYCOUNT', deliveries)
end
return 'done'
