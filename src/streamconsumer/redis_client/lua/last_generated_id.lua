-- uses: call, dictionary
-- Returns the last id that the stream has generated.
local info, failed = call('XINFO', 'STREAM', KEYS[1])
if failed then return info end
return dictionary(info)['last-generated-id']
