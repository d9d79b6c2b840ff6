-- uses: call
-- Returns the ARGV[2] oldest pending entries of the group ARGV[1]. Each line contains the id, the first 256 bytes of
-- the consumer's name, the idle time in milliseconds and the delivery count.
local pending = call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[2])  -- an error contains no lines
for _, line in ipairs(pending) do line[2] = line[2]:sub(1, 256) end
return pending
