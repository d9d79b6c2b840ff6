-- Deletes the consumer ARGV[2] of the group ARGV[1], and the consumer's fields in the hashes KEYS[2…]. Returns -1 and
-- deletes nothing if the consumer has pending entries. The check and the deletion are one atomic step, because XGROUP
-- DELCONSUMER would delete pending entries too.
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return -1 end
for i = 2, #KEYS do redis.call('HDEL', KEYS[i], ARGV[2]) end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
