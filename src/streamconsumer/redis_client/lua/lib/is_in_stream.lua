-- uses: entry_keys
-- Returns true if the stream contains an entry.
local function is_in_stream(id) return #redis.call('XRANGE', stream, id, id) == 1 end
