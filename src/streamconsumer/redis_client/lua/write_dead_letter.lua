-- uses: entry_keys, entry_state, is_lost, remember_commit
-- Writes a dead letter to KEYS[6] and acknowledges the entry ARGV[3]. ARGV[4] is the maximum number of dead letters,
-- and ARGV[5…] are the dead letter's fields. Returns `done`, or `lost` if another consumer owns the entry. A repetition
-- after a lost reply writes nothing.
--
-- Redis does not roll back a script, but the script ends at the first command that fails. XADD therefore runs before
-- XACK.
local id = ARGV[3]
if ack_if_committed(id) then return 'done' end
if is_lost(entry_state(id)) then return 'lost' end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 5))
remember_commit(id)
redis.call('XACK', stream, group, id)
return 'done'
