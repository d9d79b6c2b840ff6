-- uses: entry_keys, entry_state, is_lost, take
-- Stores delivery counts, given in ARGV[3…] as alternating ids and counts. The processor subtracts an attempt that does
-- not count, before it waits for the next attempt. Without the subtraction, another consumer would count this attempt
-- if this process were killed during the wait.
for i = 3, #ARGV, 2 do
  local state = entry_state(ARGV[i])
  if state == 'mine' then
    redis.call('XCLAIM', stream, group, me, 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  elseif not is_lost(state) then
    take(ARGV[i], 'RETRYCOUNT', ARGV[i + 1])
  end
end
