-- Runs a command. Returns the reply, and true if the reply is an error. Redis 6.2 adds a prefix to each error.
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    local words = reply.err:gsub('^@user_script: ?%d+: %-?', '')
    return {err = words}, true
  end
  return reply, false
end
