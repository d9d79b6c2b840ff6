-- uses: entry_keys, call, entry_state, is_lost, remember_commit
-- Applies effects and acknowledges the entry ARGV[3]. KEYS[6…] are the keys of the effects. For each effect, ARGV[4…]
-- contains the command, the index of the key in KEYS, the number of arguments, and the arguments. Returns `done` if the
-- effects were applied, `before` if an earlier call committed the effects, and `lost` if another consumer owns the
-- entry. Returns a table (command, key, actual type) if a key has another type than the command expects.
local id = ARGV[3]
if ack_if_committed(id) then return 'before' end
if is_lost(entry_state(id)) then return 'lost' end

local steps, deletions, at = {}, {}, 4
while at <= #ARGV do
  local step = {ARGV[at], KEYS[tonumber(ARGV[at + 1])]}
  local last = at + 2 + tonumber(ARGV[at + 2])
  for i = at + 3, last do step[#step + 1] = ARGV[i] end
  local target = step[1] == 'DEL' and deletions or steps
  target[#target + 1] = step
  at = last + 1
end

local all_probes = {
  {'XACK', {stream, group, '0-0'}, ''},  -- succeeds without free memory, as do the probes after it
  {'ZADD', {committed, 'XX', 0, ''}, ''},
  {'ZREMRANGEBYRANK', {committed, 1, 0}, ''},
  {'TIME', {}, ''},
}
local probes = {
  XADD = {'XADD', {stream, 'NOMKSTREAM', '0-0', 'f', 'v'}, 'must be greater than 0-0'},
  SET = {'SET', {stream, '', 'NX'}, ''},
  INCRBY = {'INCRBY', {stream, 0}, 'WRONGTYPE'},
}
for _, step in ipairs(steps) do
  if probes[step[1]] then table.insert(all_probes, 1, probes[step[1]]) end
  probes[step[1]] = nil
end
for _, probe in ipairs(all_probes) do
  local reply, failed = call(probe[1], unpack(probe[2]))
  if failed and (probe[3] == '' or not reply.err:find(probe[3], 1, true)) then return reply end
end

local expected_types = {XADD = 'stream', SET = 'string', INCRBY = 'string'}
for _, step in ipairs(steps) do
  local key, actual = step[2], redis.call('TYPE', step[2]).ok
  if actual ~= 'none' and actual ~= expected_types[step[1]] then return {step[1], key, actual} end
  if actual == 'string' and step[1] == 'INCRBY' then
    local value = redis.call('STRLEN', key) <= 19 and redis.call('GET', key) or ''
    local digits = value:match('^-?([1-9]%d*)$')
    if value ~= '0' and not (digits and #digits <= 18) then return {step[1], key, 'no number'} end
  end
end

for _, step in ipairs(deletions) do redis.call(unpack(step)) end  -- first: DEL has no probe without an effect
remember_commit(id)
redis.call('XACK', stream, group, id)
for _, step in ipairs(steps) do redis.call(unpack(step)) end
return 'done'
