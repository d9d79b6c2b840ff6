-- uses: entry_keys, id_before
-- Deletes the records of claims of the entries after the position `begin`, which is an id, `0` or `$`. A hash with far
-- more records than `record_claims` stores is deleted, because a script must not block the server for long.
local function forget_claims(begin)
  if begin == '$' then return end
  if not begin:find('-', 1, true) then begin = begin .. '-0' end
  for _, key in ipairs({claimed, claimed_before}) do
    if redis.call('HLEN', key) > 4 * CLAIMS_PER_HASH then redis.call('UNLINK', key) end
    local cursor = '0'
    repeat
      local page, stale = redis.call('HSCAN', key, cursor, 'COUNT', 1000), {}
      for i = 1, #page[2], 2 do
        local id = page[2][i]
        if id:find('^%d+-%d+$') and id_before(begin, id) then stale[#stale + 1] = id end
      end
      for i = 1, #stale, 1000 do redis.call('HDEL', key, unpack(stale, i, math.min(i + 999, #stale))) end
      cursor = page[1]
    until cursor == '0'
  end
end
