-- uses: entry_keys, group_info
-- Creates the consumer ~postponed. Returns 1 if the consumer was missing, 0 if it exists, and an error if the group is
-- missing or the server is out of memory. A group without ~postponed was created by another program, so the entries in
-- the snapshot must be restored (restore_entries.lua). A restore in progress begins again, except in its first stage
-- `delivered`, because the last stage restores all entries of this stage. Each script calls this function before it
-- claims an entry for ~postponed, because XCLAIM also creates the consumer.
local function create_postponed(snapshot)
  local created = redis.pcall('XGROUP', 'CREATECONSUMER', stream, group, POSTPONED)
  if created == 1 then
    redis.call('HSET', snapshot, 'begin', group_info(stream, group)['last-delivered-id'])
    if redis.call('HGET', snapshot, 'stage') ~= 'delivered' then
      redis.call('HSET', snapshot, 'stage', 'pending', 'cursor', 1)
    end
  end
  return created
end
