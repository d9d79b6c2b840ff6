-- uses: entry_keys
-- Records that `me` has claimed entries, given as alternating ids and consumers. With the record, the previous owner
-- finds out that an entry is no longer its own, even after `me` has settled the entry. Each of two hashes contains about
-- CLAIMS_PER_HASH entries, and expires. A server that is out of memory rejects the record.
local function record_claims(claims)
  if #claims == 0 then return end
  local stored = redis.pcall('HSET', claimed, unpack(claims))
  if type(stored) == 'table' then return end
  redis.call('EXPIRE', claimed, CLAIM_SECONDS)
  if redis.call('HLEN', claimed) >= CLAIMS_PER_HASH then redis.call('RENAME', claimed, claimed_before) end
end
