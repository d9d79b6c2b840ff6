-- uses: entry_keys, create_postponed, is_in_stream
-- Makes the original entry ARGV[4] of the dead letter ARGV[3] pending again and due immediately. KEYS[6] is the
-- dead-letter stream, and KEYS[7] the snapshot. Returns the entry's id, `gone` if the entry is no longer in the stream,
-- or an empty string if the dead letter does not exist.
local dead_letters, dead_letter_id, id = KEYS[6], ARGV[3], ARGV[4]
if #redis.call('XRANGE', dead_letters, dead_letter_id, dead_letter_id) == 0 then return '' end
if not is_in_stream(id) then return 'gone' end
if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
  create_postponed(KEYS[7])
  redis.call('ZADD', schedule, 0, id)
  redis.call('ZREM', committed, id)  -- otherwise the next dead letter of the entry would count as written
  redis.call('XCLAIM', stream, group, POSTPONED, 0, id, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
end
redis.call('XDEL', dead_letters, dead_letter_id)
return id
