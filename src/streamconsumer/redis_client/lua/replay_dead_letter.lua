-- Adds the message of the dead letter ARGV[1] to its stream again, and deletes the dead letter. KEYS: the stream, the
-- dead-letter stream. ARGV[2…] are the fields to add. If XADD fails, the script ends before XDEL. Returns the new
-- entry's id, or an empty string if the dead letter does not exist.
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return '' end
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[2], ARGV[1])
return id
