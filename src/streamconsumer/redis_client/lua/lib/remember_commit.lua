-- uses: entry_keys, now_milliseconds
-- Remembers an entry whose effects or dead letter this script writes, so that a repetition after a lost reply writes
-- nothing, and only acknowledges the entry. A server that is out of memory rejects the record.
local function ack_if_committed(id)
  return redis.call('ZSCORE', committed, id) and redis.call('XACK', stream, group, id)
end
local function remember_commit(id)
  redis.pcall('ZADD', committed, now_milliseconds(), id)
  redis.call('ZREMRANGEBYRANK', committed, 0, -1 - MAX_REMEMBERED_COMMITS)
end
