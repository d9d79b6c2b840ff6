-- uses: entry_keys, is_delivered
-- Records that `me` has claimed entries. With the record, the previous owner finds out that an entry is no longer its
-- own, even after `me` has settled the entry. Each of two hashes contains about CLAIMS_PER_HASH entries, and expires. A
-- server that is out of memory rejects the record. An entry that the group will deliver again has no record, because the
-- consumer that reads it becomes its owner without a claim.
local function record_claims(ids)
  local claims = {}
  for _, id in ipairs(ids) do
    if is_delivered(id) then claims[#claims + 1] = id; claims[#claims + 1] = me end
  end
  if #claims == 0 then return end
  local stored = redis.pcall('HSET', claimed, unpack(claims))
  if type(stored) == 'table' then return end
  redis.call('EXPIRE', claimed, CLAIM_SECONDS)
  if redis.call('HLEN', claimed) >= CLAIMS_PER_HASH then redis.call('RENAME', claimed, claimed_before) end
end
